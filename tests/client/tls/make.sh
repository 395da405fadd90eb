#!/usr/bin/env bash
# Make the certificates of the TLS tests: a CA, a server certificate for localhost and a client certificate.
set -euo pipefail
cd "$(dirname "$0")"
days=36500
key=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc)
openssl req -x509 "${key[@]}" -days "$days" -subj "/CN=Plumbline test CA" -keyout ca.key -out ca.pem \
  -addext "keyUsage=critical,keyCertSign,cRLSign"
for name in server client; do
  openssl req "${key[@]}" -subj "/CN=plumbline-test-$name" -keyout "$name.key" -out "$name.csr"
  openssl x509 -req -in "$name.csr" -CA ca.pem -CAkey ca.key -days "$days" -out "$name.crt" -extfile <(
    printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nauthorityKeyIdentifier=keyid\nkeyUsage=digitalSignature\n')
  cat "$name.crt" "$name.key" > "$name.pem"
done
rm -f ca.key ca.srl ./*.csr ./*.crt ./*.key

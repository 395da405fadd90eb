// Requests to the JSON API from a page: the session cookie, the CSRF token, and problems as errors.

/** A failure that the service reports (RFC 9457). */
export class Problem extends Error {
  constructor(body, status) {
    super(body.detail ?? body.title ?? `HTTP ${status}`);
    this.title = body.title ?? "";
    this.status = status;
    this.type = body.type ?? "";
    this.body = body;
  }
}

export function csrfToken() {
  return document.querySelector('meta[name="csrf-token"]')?.content ?? "";
}

/**
 * Send a request to the API.
 * @param {string} method HTTP method.
 * @param {string} path Path with query.
 * @param {{body?: unknown, raw?: BodyInit, headers?: Record<string, string>, signal?: AbortSignal,
 *   isBackground?: boolean}} options `body` is sent as JSON, `raw` as it is. `isBackground`: the page sends the request
 *   on its own, so it does not keep the session of the person from ending.
 * @returns {Promise<any>} The JSON document of the response; null if it has none.
 * @throws {Problem} The service refused the request, or cannot be reached (status 0).
 */
export async function call(method, path, {body, raw, headers = {}, signal, isBackground = false} = {}) {
  const request = {
    method,
    signal,
    headers: {
      Accept: "application/json",
      "X-Page-Language": document.documentElement.lang, // problems are shown
      "X-CSRF-Token": csrfToken(),
      ...(isBackground ? {"X-Background": "1"} : {}),
      ...(body === undefined ? {} : {"Content-Type": "application/json"}),
      ...headers,
    },
    body: body === undefined ? raw : JSON.stringify(body),
  };
  const response = await fetch(path, request).catch((error) => {
    if (error.name === "AbortError") {
      throw error;
    }
    throw new Problem({detail: document.getElementById("messages").dataset.unreachable}, 0); // browsers say it in English
  });
  const isJson = /[/+]json/.test(response.headers.get("content-type") ?? "");
  const found = isJson ? await response.json() : null;
  if (response.status === 401) {
    location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
  }
  if (!response.ok) {
    throw new Problem(found ?? {}, response.status);
  }
  return found;
}

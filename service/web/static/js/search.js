// Search forms: fields that are empty are left out of the URL, so that it can be shared.

for (const form of document.querySelectorAll("form[data-omit-empty]")) {
  form.addEventListener("formdata", ({formData}) => {
    for (const name of [...formData.keys()]) {
      if (formData.get(name) === "") {
        formData.delete(name);
      }
    }
  });
}

// The URL is relative to /docs, so the page also works behind a proxy that adds a path prefix.
window.ui = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  layout: "BaseLayout",
  presets: [SwaggerUIBundle.presets.apis],
  // Swagger UI would otherwise send the document to an external validator.
  validatorUrl: null,
});

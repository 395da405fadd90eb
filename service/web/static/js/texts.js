// Texts with values, and the locale of numbers and times.

// The formats of the region whose 24-hour times people on a shop floor read without doubt, as on the rest of the page.
const LOCALES = {en: "en-GB", de: "de-DE"};

/** Return the locale of the page. */
export const locale = () => LOCALES[document.documentElement.lang] ?? document.documentElement.lang;

/** Return a text with values in place of placeholders such as {count}. */
export const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");

/** Return the text for a number of things: `forms` holds the singular and the plural, as all languages of the pages have. */
export const fillCount = (forms, count) => fill(forms[count === 1 ? 0 : 1], {count});

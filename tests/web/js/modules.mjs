// Where the page's modules lie.
export const web = (name) => import(new URL(`../../../openai_gateway/web/js/${name}.js`, import.meta.url));

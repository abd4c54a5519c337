"""The `cloud` route: requests passed on to the server's own API, answers passed back."""

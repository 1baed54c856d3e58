// Keeps a list fresh while it is looked at, without losing filters or the scroll position.
import { keepFresh } from "./fresh.js";

keepFresh();

"""Audio: where it comes from, how it is split, and the front end that makes features of it."""

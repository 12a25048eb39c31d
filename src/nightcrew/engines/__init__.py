"""Where jobs live: one module a store, chosen by URL in `nightcrew.connect`."""

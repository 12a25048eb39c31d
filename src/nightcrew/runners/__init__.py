"""How a job is run: killable commands and killable Python children."""

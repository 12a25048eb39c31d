"""Blob stores: where files are kept."""

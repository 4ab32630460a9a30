"""The whole platform in seconds: real processes, real files, a model of a few thousand weights."""

"""A cluster for tests: a small API server that the real kubectl uses, whose pods are network namespaces with real processes."""

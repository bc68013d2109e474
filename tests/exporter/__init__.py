"""Tests of the exporter; a package, so that its files may be named as the runtime's are."""

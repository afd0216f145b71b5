"""The laws, by group. A module that lies here is loaded by ``matchlib.testing.law.cases``."""

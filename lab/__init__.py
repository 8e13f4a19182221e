"""Hosts as network namespaces with real packets, for the demonstration and the tests."""

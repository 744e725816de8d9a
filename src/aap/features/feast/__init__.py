"""Feast over our stores: the objects of the registry, and the extension points that are ours."""

"""HTTP: gateway, connections, responses, OpenAPI document, operational routes."""

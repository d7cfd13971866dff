"""What the gateway serves, for people: an OpenAPI document made live of its routes, and a page to try them on."""

"""A server to measure: `bessemer up` on a home of its own, texts of known length, a client."""

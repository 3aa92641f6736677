"""What the tests of the core stand on: virtual time, a plain store, agents on strings, readers that check."""

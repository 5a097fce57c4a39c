"""Helpers of the tests: virtual time, fakes and builders. Nothing in production imports them."""

"""Tests of chatserver/streams."""

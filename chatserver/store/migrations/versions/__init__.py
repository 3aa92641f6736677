"""One module a revision, named after it. Going back is by backup: there are no downgrades."""

"""The booking actor and its domain: the book, its rules, and the actor that runs them."""

"""The notification actor delivers messages and posts delivery reports back."""

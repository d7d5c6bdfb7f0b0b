"""What operators' commands do, apart from the command line: replaying, archiving, reconciling.

Everything here takes ports and gives structs. What changes a book says so in its first sentence.
"""

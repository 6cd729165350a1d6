"""VaL probing: is information in the middle of the context still found?"""

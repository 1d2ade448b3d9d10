"""The pages: what each asks the service for, and what its template gets.

A page asks for what it shows and no more, so that it is quick whatever the model's size.
"""

"""nlvideo: train, test, inspect and extend video classifiers built around the non-local operation.

Importing the package imports nothing heavy; take what you need from its sub-packages.
"""

__version__ = "0.1.0"

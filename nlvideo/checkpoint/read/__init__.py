"""Files of weights, read without executing anything in them."""

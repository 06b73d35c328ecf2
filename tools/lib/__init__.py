"""What only the scripts of this repository need: they import it as ``lib``, and the wheel leaves it out."""

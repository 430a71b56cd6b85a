import kdtune
x = (

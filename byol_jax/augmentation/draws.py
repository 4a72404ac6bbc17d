"""What each of a view's random numbers is for.

Every draw has a column of its own, used or not, so that changing one
probability in the config changes nothing else.
"""

COUNT = 18
CROP = slice(0, 4)  # area, aspect ratio, y, x
FLIP, JITTER = 4, 5
ORDER = slice(6, 10)
DELTAS = slice(10, 14)  # brightness, contrast, saturation, hue
GRAYSCALE, BLUR, SIGMA, SOLARIZE = 14, 15, 16, 17

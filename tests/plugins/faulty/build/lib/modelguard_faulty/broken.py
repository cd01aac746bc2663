raise ImportError("the sun is in the wrong place")

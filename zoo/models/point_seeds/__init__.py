"""Points to begin with: from silhouettes, from matching, from structure from motion, from supplied depth."""

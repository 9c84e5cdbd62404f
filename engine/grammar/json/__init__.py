"""From cases to grammar rules for JSON text: values, objects, arrays, and the white space between tokens."""

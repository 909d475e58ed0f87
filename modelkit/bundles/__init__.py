"""What a bundle is made of: its parts are pure; `operations` opens the files."""

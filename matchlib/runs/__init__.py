"""From settings to a folder with a teacher, a student, their scores and a picture."""

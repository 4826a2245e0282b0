"""What a recipe takes before it runs: trainings, operations, hours, memory, disk."""

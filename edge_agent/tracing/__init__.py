"""What one generation did and when: recorded at the edge, laid out as a pipeline, drawn as a Gantt chart."""

"""What starts by itself: jobs, the schedule, and the sensors for alerts, failed runs and late readings."""

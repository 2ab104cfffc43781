"""How our processes run on a machine: child processes, health files, full disks, and the way to MongoDB and S3."""

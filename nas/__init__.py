"""The domain of Topiary: architectures, spaces, costs, specs, jobs, ranking. No torch, no Ray, no database."""

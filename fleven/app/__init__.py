"""The Flower app: what travels to the cars. Imports neither the server nor the agent."""

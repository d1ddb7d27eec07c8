"""Makes the model bundle: a seeded stream of payments, its replay, the trees and the checks."""

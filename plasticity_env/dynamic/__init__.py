"""Dynamic inference: many structures over one set of weights, and a router that picks one for each text."""

from plasticity_env.dynamic.bank import StructureBank
from plasticity_env.dynamic.clusters import cluster_bank
from plasticity_env.dynamic.domain import Domain
from plasticity_env.dynamic.domain_body import Domains
from plasticity_env.dynamic.domain_router import DomainRouter
from plasticity_env.dynamic.embedded_bank import embedded_bank
from plasticity_env.dynamic.fitting import build_bank, fit_structures
from plasticity_env.dynamic.nearest import NearestTexts
from plasticity_env.dynamic.new_domain import NewDomainTest, Verdict
from plasticity_env.dynamic.prefix import PrefixReader, PrefixView
from plasticity_env.dynamic.route_table import RouteTable, measure_routes
from plasticity_env.dynamic.routed_model import RoutedModel
from plasticity_env.dynamic.structure import Structure

__all__ = [
    "Domain",
    "DomainRouter",
    "Domains",
    "NearestTexts",
    "NewDomainTest",
    "PrefixReader",
    "PrefixView",
    "RouteTable",
    "RoutedModel",
    "Structure",
    "StructureBank",
    "Verdict",
    "build_bank",
    "cluster_bank",
    "embedded_bank",
    "fit_structures",
    "measure_routes",
]

"""Loading a pipeline's folder: every refusal names file, line, path, what is wrong and what is allowed."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mlops_pipelines.errors import UserError
from mlops_pipelines.features.sets import feature_set
from mlops_pipelines.spec import Policy
from mlops_pipelines.spec_loading import checked, find_specs, hash_of, json_schema, load_pipeline, load_spec
from mlops_pipelines.spec_wording import NOT_AVAILABLE_YET
from mlops_pipelines.yaml_source import read_yaml

DEFS = """\
type: mlops_pipelines.LearningLoop
attributes:
  name: returns
  partitions: {start: "2024-01-01", end: "2025-01-01"}
  events: {landing: landing/events, id: order_id, time: placed_at, arrived: taken_in_at}
  labels:
    {landing: landing/labels, value: returned, time: decided_at, arrived: taken_in_at, matures_after: 30d}
  references:
    prices:
      landing: landing/prices
      keys: [sku]
      time: set_at
      arrived: taken_in_at
      publish_lag: 1h
    shops: {landing: landing/shops, keys: [shop, country]}
  contract: contract.yaml
  features:
    from_event:
      amount: amount
      hour: hour(placed_at)
    views:
      - name: customer
        key: customer
        of: labels
        aggregate: {returned: [mean, count], refund: [last]}
        windows: [6h, 30d]
      - name: price
        key: product
        of: prices
        last: [price]
        within: 3d
      - name: shop
        key: [shop, country]
        of: shops
        last: [kind]
  training:
    window: 365d
    holdout: 28d
    params: {num_leaves: 31}
  gates:
    champion: {min_days: 7}
    slices: {by: [country]}
  triggers:
    drift: {watch: 0.1, alarm: 0.2}
    performance: {drop: 0.02, over: 14d}
  replay: {source: "mlops_pipelines.pipelines.flight_delays.source:Flights"}
"""

CONTRACT = """\
events:
  columns:
    order_id: {type: string}
    placed_at: {type: timestamp}
    taken_in_at: {type: timestamp}
    customer: {type: string}
    product: {type: string, nullable: true}
    shop: {type: int}
    country: {type: string}
    amount: {type: float}
    gift: {type: bool}
    code: {type: int}
labels:
  columns:
    order_id: {type: string}
    decided_at: {type: timestamp}
    taken_in_at: {type: timestamp}
    returned: {type: bool}
    refund: {type: float, nullable: true}
    stars: {type: int, one_of: [1, 2, 3]}
    opened: {type: int, one_of: [0, 1]}
    maybe: {type: bool, nullable: true}
    mostly: {type: int, one_of: [0, 1], batch: {others_at_most: 0.5}}
    reason: {type: string}
references:
  prices:
    columns:
      sku: {type: string}
      set_at: {type: timestamp}
      taken_in_at: {type: timestamp}
      price: {type: float}
  shops:
    columns:
      shop: {type: int}
      country: {type: string}
      kind: {type: string}
      opened_at: {type: timestamp}
"""


def written(folder: Path, defs: str = DEFS, contract: str = CONTRACT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "contract.yaml").write_text(contract)
    path = folder / "defs.yaml"
    path.write_text(defs)
    return path


def replaced(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times"
    return text.replace(old, new)


def problems(path: Path) -> list[str]:
    """The lines of the refusal, one a problem."""
    with pytest.raises(UserError) as refused:
        load_spec(path)
    return refused.value.message.splitlines()[1:]


def position(text: str, marker: str) -> str:
    """`LINE:COL` of the first occurrence of the marker."""
    before = text[: text.index(marker)]
    return f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


def test_a_right_pipeline_is_loaded_with_its_contract(tmp_path: Path) -> None:
    path = written(tmp_path)
    loaded = load_spec(path)
    assert loaded.spec.name == "returns"
    assert loaded.spec.features.views[0].windows == (timedelta(hours=6), timedelta(days=30))
    assert loaded.contract.labels.columns["returned"].type == "bool"
    assert loaded.path == path


# Each row: what is replaced by what; where the problem is marked (a text in the changed file, from its
# first character), its path below `attributes`, and parts of its sentence.
REFUSALS: dict[str, tuple[str, str, str, str, list[str]]] = {
    "unknown key": (
        "  contract: contract.yaml",
        "  contracts: contract.yaml",
        "contracts:",
        "contracts",
        ["contracts is not a key of this part; did you mean contract? (allowed: name, description, "],
    ),
    "wrong type": (
        "holdout: 28d",
        "holdout: 28",
        "28\n",
        "training.holdout",
        ["28 is not a duration", "such as 36h"],
    ),
    "missing key": (", time: placed_at", "", "events: {", "events.time", ["is missing, and has no default"]),
    "partition end": (
        'end: "2025-01-01"',
        'end: "2024-01-01"',
        '"2024-01-01"}',
        "partitions.end",
        ["2024-01-01 is not after the start, 2024-01-01"],
    ),
    "shared landing folder": (
        "landing: landing/labels",
        "landing: landing/events/labels",
        "landing/events/labels",
        "labels.landing",
        ["landing/events/labels and landing/events of events overlap", "a folder of its own"],
    ),
    "landing folder of another place": (
        "landing: landing/labels",
        "landing: ../labels",
        "../labels",
        "labels.landing",
        ["'../labels' is not a folder below the pipeline's own, such as landing/events, nor a URL"],
    ),
    "landing URL with a key": (
        "landing: landing/labels",
        "landing: s3://key:hidden@bucket/labels",
        "s3://key",
        "labels.landing",
        ["the URL has a user, a key or options in it; they come from the environment or from fsspec's conf"],
    ),
    "landing URL that leads elsewhere": (
        "landing: landing/labels",
        "landing: s3://bucket/../labels",
        "s3://bucket",
        "labels.landing",
        ["the URL is not of the form PROTOCOL://BUCKET/FOLDER, such as s3://bucket/landing/events"],
    ),
    "landing URL of no protocol": (
        "landing: landing/labels",
        "landing: s4://bucket/labels",
        "s4://bucket",
        "labels.landing",
        ["fsspec knows no s4:// (allowed: abfs, "],
    ),
    "unknown id": (
        "id: order_id",
        "id: order",
        "order,",
        "events.id",
        [
            "order is not a column of events in the contract; did you mean order_id? "
            "(allowed: order_id, placed_at, "
        ],
    ),
    "time of another type": (
        "time: placed_at",
        "time: amount",
        "amount, arrived",
        "events.time",
        ["amount is a float (allowed: timestamp)"],
    ),
    "unknown label": (
        "value: returned",
        "value: return",
        "return,",
        "labels.value",
        ["return is not a column of labels in the contract; did you mean returned?"],
    ),
    "label that is a number": (
        "value: returned",
        "value: refund",
        "refund,",
        "labels.value",
        [
            "refund is a float, and labels.kind is binary",
            "allowed: bool, or int with one_of: [0, 1]; or labels.kind: number",
        ],
    ),
    "label of three values": (
        "value: returned",
        "value: stars",
        "stars,",
        "labels.value",
        ["stars is an int that the contract does not hold to 0 and 1", "or labels.kind: number"],
    ),
    "label of which others pass": (
        "value: returned",
        "value: mostly",
        "mostly,",
        "labels.value",
        ["mostly is an int that the contract does not hold to 0 and 1", "without others_at_most"],
    ),
    "nullable label": (
        "value: returned",
        "value: maybe",
        "maybe,",
        "labels.value",
        ["maybe is nullable in the contract"],
    ),
    "label overdue at once": (
        "matures_after: 30d",
        "matures_after: 0d",
        "0d}",
        "labels.matures_after",
        ["must be longer than 0s"],
    ),
    "reference without contract": (
        "    prices:\n",
        "    price:\n",
        "price:\n",
        "references.price",
        ["the contract has no columns for price; did you mean prices? (allowed: prices, shops)"],
    ),
    "reference with a taken name": (
        "    prices:\n",
        "    examples:\n",
        "examples:\n",
        "references.examples",
        ["examples is the name of something every pipeline has", "taken: champion, "],
    ),
    "unknown key of a reference": (
        "keys: [sku]",
        "keys: [skus]",
        "skus",
        "references.prices.keys.0",
        ["skus is not a column of the reference prices in the contract; did you mean sku?"],
    ),
    "lag of a static reference": (
        "keys: [shop, country]}",
        "keys: [shop, country], publish_lag: 1h}",
        "1h}",
        "references.shops.publish_lag",
        ["always known"],
    ),
    "missing contract": (
        "contract: contract.yaml",
        "contract: another.yaml",
        "another.yaml",
        "contract",
        ["there is no file", "another.yaml"],
    ),
    "unknown column in SQL": (
        "amount: amount",
        "amount: amounts",
        "amounts",
        "features.from_event.amount",
        ["amounts is not a column of the events; did you mean amount? (allowed: event_id, event_time, "],
    ),
    "arrival in SQL": (
        "amount: amount",
        "amount: epoch(taken_in_at)",
        "epoch(taken",
        "features.from_event.amount",
        ["taken_in_at is not a column of the events"],
    ),
    "unknown function in SQL": (
        "hour(placed_at)",
        "ours(placed_at)",
        "ours(",
        "features.from_event.hour",
        ["ours is not a function that may be used; did you mean hour? (allowed: abs, "],
    ),
    "subquery": (
        "hour(placed_at)",
        "(select 1)",
        "(select 1)",
        "features.from_event.hour",
        ["contains a subquery"],
    ),
    "table function": (
        "hour(placed_at)",
        "read_csv('x')",
        "read_csv(",
        "features.from_event.hour",
        ["read_csv is not a function that may be used"],
    ),
    "name of an example's column": (
        "hour: hour(placed_at)",
        "day: day(placed_at)",
        "day: day",
        "features.from_event.day",
        ["day is also the name of a column of the examples"],
    ),
    "feature named twice": (
        "amount: amount",
        "customer_returned_mean_6h: amount",
        "name: customer",
        "features.views.0",
        [
            "customer_returned_mean_6h is also the name of a feature of "
            "features.from_event.customer_returned_mean_6h"
        ],
    ),
    "view named twice": (
        "name: price",
        "name: customer",
        "customer\n        key: product",
        "features.views.1.name",
        [f"customer stands twice; first in line {DEFS[: DEFS.index('name: customer')].count(chr(10)) + 1}"],
    ),
    "unknown view source": (
        "of: labels",
        "of: label",
        "label\n",
        "features.views.0.of",
        [
            "label is neither a stream nor a reference; did you mean labels? "
            "(allowed: events, labels, prices, shops)"
        ],
    ),
    "key that is no column": (
        "key: customer",
        "key: client",
        "client",
        "features.views.0.key",
        ["client is not a column of events in the contract", "allowed: order_id, "],
    ),
    "key that names one event": (
        "key: customer",
        "key: order_id",
        "order_id\n",
        "features.views.0.key",
        ["order_id names a single event"],
    ),
    "key of a wrong type": (
        "key: customer",
        "key: amount",
        "amount\n        of",
        "features.views.0.key",
        ["amount is a float (allowed: string, int)"],
    ),
    "key that never matches": (
        "key: product",
        "key: shop",
        "shop\n        of: prices",
        "features.views.1.key",
        ["is a int, and prices.sku is a string: they never match"],
    ),
    "too few keys": (
        "key: [shop, country]",
        "key: shop",
        "shop\n        of: shops",
        "features.views.2.key",
        ["shops is looked up by 2 columns, not 1 (allowed: one event column for each of shop, country)"],
    ),
    "key twice": (
        "key: [shop, country]",
        "key: [shop, shop]",
        "shop, shop",
        "features.views.2.key.0",
        ["shop stands there 2 times"],
    ),
    "unknown column of a view": (
        "{returned: [mean, count]",
        "{retuned: [mean, count]",
        "retuned:",
        "features.views.0.aggregate.retuned",
        [
            "retuned is not a column of labels in the contract; did you mean returned or refund? "
            "(allowed: order_id, "
        ],
    ),
    "mean of a text": (
        "{returned: [mean, count]",
        "{reason: [mean, count]",
        "reason:",
        "features.views.0.aggregate.reason",
        ["reason is a string (allowed: int, float, bool)"],
    ),
    "unknown aggregate": (
        "[mean, count]",
        "[kurtosis, count]",
        "kurtosis",
        "features.views.0.aggregate.returned.0",
        ["'kurtosis' is not allowed (allowed: mean, sum, count, min, max, std, distinct, last)"],
    ),
    "window that is no multiple of a tile": (
        "[6h, 30d]",
        "[90m, 30d]",
        "90m",
        "features.views.0.windows.0",
        [
            "90m is not a whole number of tiles of 1h, which it is added up of; take 1h or 2h "
            "(allowed: whole hours, such as 6h or 7d)"
        ],
    ),
    "window twice": (
        "[6h, 30d]",
        "[24h, 1d]",
        "24h",
        "features.views.0.windows.0",
        ["1d stands there 2 times"],
    ),
    "aggregates without windows": (
        "        windows: [6h, 30d]\n",
        "",
        "name: customer",
        "features.views.0.windows",
        ["is missing", "such as [6h, 7d]"],
    ),
    "windows without aggregates": (
        "        last: [price]\n",
        "        last: [price]\n        windows: [6h]\n",
        "windows: [6h]\n",
        "features.views.1.windows",
        ["there is no aggregate to take over them"],
    ),
    "view without features": (
        "        last: [kind]\n",
        "",
        "name: shop",
        "features.views.2",
        ["gives no feature"],
    ),
    "last value of any age": (
        "        within: 3d\n",
        "",
        "name: price",
        "features.views.1.within",
        ["is missing", "such as within: 3h"],
    ),
    "age in a static reference": (
        "last: [kind]",
        "last: [kind]\n        within: 3d",
        "within: 3d\n  training",
        "features.views.2.within",
        ["shops has no time to measure an age by"],
    ),
    "windows over a static reference": (
        "last: [kind]",
        "aggregate: {shop: [count]}\n        windows: [6h]",
        "aggregate: {shop",
        "features.views.2.aggregate",
        ["shops has no time to take windows over (allowed: last)"],
    ),
    "last value that is a time": (
        "last: [kind]",
        "last: [opened_at]",
        "opened_at",
        "features.views.2.last.0",
        ["opened_at is a timestamp (allowed: string, int, float, bool)"],
    ),
    "holdout as long as the window": (
        "holdout: 28d",
        "holdout: 365d",
        "365d\n    params",
        "training.holdout",
        ["365d leaves nothing of the window to train on (allowed: less than 365d)"],
    ),
    "window of half days": (
        "window: 365d",
        "window: 100h",
        "100h",
        "training.window",
        ["100h is not a whole number of days"],
    ),
    "unknown parameter": (
        "num_leaves: 31",
        "num_leafs: 31",
        "31}",
        "training.params.num_leafs",
        ["num_leafs is not a parameter that may be set; did you mean num_leaves? (allowed: n_estimators, "],
    ),
    "parameter that breaks repeatability": (
        "num_leaves: 31",
        "num_threads: 3",
        "3}",
        "training.params.num_threads",
        ["num_threads may not be set: write training.threads"],
    ),
    "trainer that is not there": (
        "params: {num_leaves: 31}",
        "trainer: tests.own_trainers:Logistc",
        "tests.own",
        "training.trainer",
        ["tests.own_trainers (", "has no class Logistc; did you mean Logistic?"],
    ),
    "trainer that is no path to a class": (
        "params: {num_leaves: 31}",
        "trainer: tests.own_trainers",
        "tests.own",
        "training.trainer",
        ["'tests.own_trainers' is not module:name"],
    ),
    "search of an unknown parameter": (
        "params: {num_leaves: 31}",
        "tune: {space: {num_leafs: {low: 15, high: 127}}}",
        "{low: 15",
        "training.tune.space.num_leafs",
        ["num_leafs is not a parameter that may be set; did you mean num_leaves?"],
    ),
    "search of a parameter that the pipeline sets": (
        "params: {num_leaves: 31}",
        "tune: {space: {seed: {low: 1, high: 9}}}",
        "{low: 1",
        "training.tune.space.seed",
        ["seed may not be set: write training.seed"],
    ),
    "search beyond what a parameter may be": (
        "params: {num_leaves: 31}",
        "tune: {space: {num_leaves: {low: 1, high: 127}}}",
        "{low: 1",
        "training.tune.space.num_leaves",
        ["1 is not allowed for num_leaves (allowed: a whole number from 2 to 131072)"],
    ),
    "search between numbers where whole ones are asked for": (
        "params: {num_leaves: 31}",
        "tune: {space: {num_leaves: {low: 15.5, high: 127}}}",
        "{low: 15.5",
        "training.tune.space.num_leaves",
        ["15.5 is not allowed for num_leaves"],
    ),
    "search the wrong way round": (
        "params: {num_leaves: 31}",
        "tune: {space: {learning_rate: {low: 0.2, high: 0.01}}}",
        "{low: 0.2",
        "training.tune.space.learning_rate",
        ["0.2 is not below the high end (allowed: less than 0.01)"],
    ),
    "search by the logarithm from nought": (
        "params: {num_leaves: 31}",
        "tune: {space: {lambda_l2: {low: 0, high: 1, log: true}}}",
        "{low: 0",
        "training.tune.space.lambda_l2",
        ["log needs a low end above 0, and 0 is not"],
    ),
    "search without an end": (
        "params: {num_leaves: 31}",
        "tune: {space: {num_leaves: {low: 15}}}",
        "{low: 15",
        "training.tune.space.num_leaves",
        ["there is no range to search (allowed: low and high, or choices)"],
    ),
    "search of choices in a range": (
        "params: {num_leaves: 31}",
        "tune: {space: {boosting: {choices: [gbdt, dart], log: true}}}",
        "{choices",
        "training.tune.space.boosting",
        ["choices stand alone (allowed: low and high, or choices)"],
    ),
    "search of one choice": (
        "params: {num_leaves: 31}",
        "tune: {space: {boosting: {choices: [gbdt]}}}",
        "{choices",
        "training.tune.space.boosting",
        ["there have to be two choices at least, each once"],
    ),
    "search of a choice that is none": (
        "params: {num_leaves: 31}",
        "tune: {space: {boosting: {choices: [gbdt, rf]}}}",
        "{choices",
        "training.tune.space.boosting",
        ["'rf' is not allowed for boosting (allowed: one of gbdt, dart)"],
    ),
    "search of what has no effect": (
        "params: {num_leaves: 31}",
        "tune: {space: {bagging_fraction: {low: 0.5, high: 1.0}}}",
        "{low: 0.5",
        "training.tune.space.bagging_fraction",
        ["bagging_fraction has no effect without a bagging_freq of at least 1"],
    ),
    "search of nothing": (
        "params: {num_leaves: 31}",
        "tune: {space: {}}",
        "{}",
        "training.tune.space",
        ["is empty; at least one is needed"],
    ),
    "incumbent's days beyond the holdout": (
        "min_days: 7",
        "min_days: 29",
        "29}",
        "gates.champion.min_days",
        ["29 days are more than the holdout has", "28d"],
    ),
    "a watch of more days than it has": (
        "  replay:",
        "  promotion: {watch: {over: 2d}}\n  replay:",
        "watch: {over",
        "promotion.watch.min_days",
        ["3 days are more than the watch has", "2d"],
    ),
    "gate on a metric that is not computed": (
        "champion: {min_days: 7}",
        "champion: {metric: f1}",
        "f1}",
        "gates.champion.metric",
        ["'f1' is not allowed (allowed: log_loss, brier, mse, mae)"],
    ),
    "slices by an unknown column": (
        "by: [country]",
        "by: [land]",
        "land]",
        "gates.slices.by.0",
        ["land is not a column of events in the contract"],
    ),
    "a gate that nothing is declared of": (
        "champion: {min_days: 7}",
        "champion: ~",
        "~",
        "gates.champion",
        ["nothing is declared here; write {} for its defaults, or leave it out"],
    ),
    "groups to be treated alike by an unknown column": (
        "champion: {min_days: 7}",
        "fairness: {by: [land]}",
        "land]",
        "gates.fairness.by.0",
        ["land is not a column of events in the contract"],
    ),
    "two people where nobody is asked": (
        "  replay:",
        "  promotion: {four_eyes: true}\n  replay:",
        "true}\n  replay:",
        "promotion.four_eyes",
        ["nobody is asked where approval is automatic"],
    ),
    "slices by a number": (
        "by: [country]",
        "by: [amount]",
        "amount]",
        "gates.slices.by.0",
        ["amount is a float (allowed: string, int, bool)"],
    ),
    "watch above alarm": (
        "watch: 0.1",
        "watch: 0.2",
        "0.2, alarm",
        "triggers.drift.watch",
        ["0.2 is not below the alarm (allowed: less than 0.2)"],
    ),
    "quality over half days": (
        "over: 14d",
        "over: 36h",
        "36h",
        "triggers.performance.over",
        ["36h is not a whole number of days"],
    ),
    "predictions that are freed while rows still arrive": (
        "contract: contract.yaml",
        "contract: contract.yaml\n  retention: {predictions: 29d}",
        "29d",
        "retention.predictions",
        ["29d is less than", "rows may still arrive (lateness), labels mature and triggers measure"],
    ),
    "error budgets of too few days": (
        "contract: contract.yaml",
        "contract: contract.yaml\n  slos: {window: 7d, availability: {}}",
        "7d,",
        "slos.window",
        ["7d is not a whole number of days, or too few for alerts that look back a week (allowed: 14d,"],
    ),
    "error budgets of days that are freed": (
        "contract: contract.yaml",
        "contract: contract.yaml\n  slos: {window: 28d, quality: {}}\n  retention: {reports: 59d}",
        "28d,",
        "slos.window",
        ["28d reach further back than reports are kept: retention.reports is 59d (allowed"],
    ),
    "an objective that leaves no budget": (
        "contract: contract.yaml",
        "contract: contract.yaml\n  slos: {availability: {objective: 1.0}}",
        "1.0}}",
        "slos.availability.objective",
        ["must be less than 1"],
    ),
    "replay of an unknown module": (
        "flight_delays.source:Flights",
        "flight_delays.sauce:Flights",
        '"mlops_pipelines',
        "replay.source",
        ["there is no module mlops_pipelines.pipelines.flight_delays.sauce"],
    ),
    "replay into another folder": (
        "landing: landing/prices",
        "landing: landing/costs",
        "landing/costs",
        "references.prices.landing",
        ["a replay source writes this stream to landing/prices (allowed: landing/prices)"],
    ),
    "replay without arrivals": (
        ", time: placed_at, arrived: taken_in_at",
        ", time: placed_at",
        "events: {",
        "events.arrived",
        ["is missing: a replayed file is not written when its rows arrived"],
    ),
    "template": (
        "  partitions:",
        '  description: "{{ env.QUESTION }}"\n  partitions:',
        '"{{ env',
        "description",
        ["templates are not resolved in a pipeline's YAML"],
    ),
    "key twice in YAML": (
        "  contract: contract.yaml",
        "  contract: contract.yaml\n  contract: contract.yaml",
        "contract: contract.yaml\n  features",
        "contract",
        ["the key stands twice; first in line 16"],
    ),
    "approval by a machine": (
        "  replay:",
        "  promotion: {approval: robot}\n  replay:",
        "robot",
        "promotion.approval",
        ["'robot' is not allowed (allowed: automatic, human)"],
    ),
    "hourly partitions": (
        "partitions: {",
        "partitions: {every: hour, ",
        "hour, ",
        "partitions.every",
        ["hour is not available yet (allowed: day)"],
    ),
    "exploration of most events": (
        "  replay:",
        "  exploration: {share: 0.9}\n  replay:",
        "0.9}",
        "exploration.share",
        ["0.9: must be less than or equal to 0.5"],
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_wrong_pipeline_is_refused_with_line_path_and_what_is_allowed(tmp_path: Path, case: str) -> None:
    old, new, marker, dotted, parts = REFUSALS[case]
    defs = replaced(DEFS, old, new)
    path = written(tmp_path, defs)
    expected = f"{path}:{position(defs, marker)} attributes.{dotted}: "
    found = [line for line in problems(path) if line.startswith(expected)]
    assert found, problems(path)
    for part in parts:
        assert part in "\n".join(found)


def test_a_view_that_is_declared_twice_is_one_problem(tmp_path: Path) -> None:
    data = yaml.safe_load(DEFS)
    views = data["attributes"]["features"]["views"]
    views.append(views[0])
    [line] = problems(written(tmp_path, yaml.safe_dump(data)))
    assert f"views.{len(views) - 1}.name: customer stands twice; first in line " in line


def test_a_window_that_is_given_twice_is_one_problem(tmp_path: Path) -> None:
    [line] = problems(written(tmp_path, replaced(DEFS, "windows: [6h, 30d]", "windows: [6h, 30d, 6h]")))
    assert line.endswith("windows.0: 6h stands there 2 times")


def test_a_contract_that_is_not_there_is_drafted_by_a_command(tmp_path: Path) -> None:
    path = written(tmp_path)
    (tmp_path / "contract.yaml").unlink()
    with pytest.raises(UserError, match="there is no file") as refused:
        load_spec(path)
    assert refused.value.remedy == f"mlops contract infer FILE > {tmp_path / 'contract.yaml'}"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "type: mlops_pipelines.LearningLoop",
            "type: dagster.DefsFolder",
            "1:7 type: 'dagster.DefsFolder' is not a pipeline (allowed: mlops_pipelines.LearningLoop)",
        ),
        (
            "type: mlops_pipelines.LearningLoop\n",
            "",
            "1:1 type: None is not a pipeline (allowed: mlops_pipelines.LearningLoop)",
        ),
        (
            "attributes:",
            "attribute:",
            "2:1 attribute: attribute is not a key here; did you mean attributes? (allowed: type, ",
        ),
        (
            "attributes:",
            "template_vars_module: .vars\nattributes:",
            "2:1 template_vars_module: template_vars_module is not a key here",
        ),
    ],
)
def test_what_stands_around_the_attributes_is_checked_too(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    path = written(tmp_path, replaced(DEFS, old, new))
    assert any(line.startswith(f"{path}:{expected}") for line in problems(path)), problems(path)


def test_every_problem_is_listed_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    defs = replaced(DEFS, "hour(placed_at)", "ours(placed)")
    defs = replaced(defs, "[6h, 30d]", "[90m, 30d]")
    defs = replaced(defs, "value: returned", "value: refund")
    found = problems(written(tmp_path, defs))
    assert [re.sub(r"^.*?:(\d+):\d+ attributes\.(\S+): .*", r"\1 \2", line) for line in found] == [
        "7 labels.value",
        "7 labels.value",
        "20 features.from_event.hour",
        "20 features.from_event.hour",
        "26 features.views.0.windows.0",
    ]


def test_the_message_counts_the_problems_and_says_where_to_look(tmp_path: Path) -> None:
    path = written(tmp_path, replaced(DEFS, "28d", "28"))
    with pytest.raises(UserError) as refused:
        load_spec(path)
    assert str(refused.value).startswith(f"{path} has 1 problem:\n")
    assert refused.value.remedy is not None
    assert "docs/pipeline.md" in refused.value.remedy


def test_an_int_of_zero_and_one_may_be_a_label(tmp_path: Path) -> None:
    assert load_spec(written(tmp_path, replaced(DEFS, "value: returned", "value: opened"))).spec.labels.value


def test_a_last_value_among_aggregates_is_bounded_by_the_longest_window(tmp_path: Path) -> None:
    defs = replaced(DEFS, "windows: [6h, 30d]", "windows: [6h, 30d]\n        last: [returned]")
    assert load_spec(written(tmp_path, defs)).spec.features.views[0].within is None


def test_a_contract_whose_columns_the_lake_would_overwrite_is_refused(tmp_path: Path) -> None:
    contract = replaced(CONTRACT, "gift: {type: bool}", "arrived_at: {type: timestamp}")
    [line] = problems(written(tmp_path, contract=contract))
    assert "attributes.events: the contract's column arrived_at would be overwritten" in line


def test_a_reference_that_only_the_contract_knows_is_named(tmp_path: Path) -> None:
    contract = CONTRACT + "  stock:\n    columns: {sku: {type: string}}\n"
    [line] = problems(written(tmp_path, contract=contract))
    assert "attributes.references: the contract has columns for stock, which is not declared here" in line


def test_ids_of_different_types_never_match(tmp_path: Path) -> None:
    contract = CONTRACT.replace("order_id: {type: string}", "order_id: {type: int}", 1)
    [line] = problems(written(tmp_path, contract=contract))
    assert "attributes.labels.id: is a string, and the event's id is a int: they never match" in line


def test_problems_of_the_contract_are_told_with_those_of_the_pipeline(tmp_path: Path) -> None:
    defs = replaced(DEFS, "  partitions:", '  description: "{{ x }}"\n  partitions:')
    path = written(tmp_path, defs, replaced(CONTRACT, "gift: {type: bool}", "gift: {type: boolean}"))
    with pytest.raises(UserError) as refused:
        load_spec(path)
    assert "attributes.description" in str(refused.value)
    assert f"{path.parent / 'contract.yaml'}:11:" in str(refused.value)


@pytest.mark.parametrize("text", ["", "just a text", "- a\n- list\n", "a: [1\n", "a: 1\n---\nb: 2\n"])
def test_a_file_that_is_no_pipeline_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UserError, match=re.escape(str(path))):
        load_spec(path)


def test_a_missing_file_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"defs\.yaml: cannot be read: No such file"):
        load_spec(tmp_path / "defs.yaml")


@pytest.mark.parametrize("place", NOT_AVAILABLE_YET, ids=lambda place: ".".join(map(str, place)))
def test_what_is_not_available_yet_is_refused_with_these_words(
    tmp_path: Path, place: tuple[str | int, ...]
) -> None:
    values = NOT_AVAILABLE_YET[place]
    steps: tuple[str | int, ...] = place
    if place == ("features", "views", "*", "aggregate", "*", "*"):
        steps = ("features", "views", 0, "aggregate", "returned", 0)
    defs = with_value(steps, sorted(values)[0] if values else "{}")
    [line] = [line for line in problems(written(tmp_path, defs)) if "not available yet" in line]
    assert f" attributes.{'.'.join(map(str, steps))}: " in line
    assert "(allowed: " in line


def with_value(place: tuple[str | int, ...], value: str) -> str:
    """DEFS with a value at a path: put into the list, or as a key, first in the part that holds it."""
    if isinstance(place[-1], int):
        return replaced(DEFS, "[mean, count]", f"[{value}, count]")
    if len(place) == 1:
        return f"{DEFS}  {place[0]}: {value}\n"
    part = str(place[0])
    opening = re.search(rf"^  {part}:\s+{{", DEFS, re.MULTILINE)
    if opening is not None:
        return replaced(DEFS, opening[0], f"{opening[0]}{place[-1]}: {value}, ")
    if f"  {part}:\n" in DEFS:
        return replaced(DEFS, f"  {part}:\n", f"  {part}:\n    {place[-1]}: {value}\n")
    return f"{DEFS}  {part}: {{{place[-1]}: {value}}}\n"


def test_the_flights_are_a_right_pipeline() -> None:
    loaded = load_pipeline("flight_delays")
    columns = feature_set(loaded.spec, loaded.contract).columns
    names = [*loaded.spec.features.from_event]
    names += [name for view in loaded.spec.features.views for name in view.feature_names]
    assert [column.name for column in columns] == names
    assert {"carrier", "origin", "dest"} <= {column.name for column in columns if column.kind == "category"}


def test_nothing_of_a_flight_known_only_after_its_departure_is_a_feature() -> None:
    spec = load_pipeline("flight_delays").spec
    sql = " ".join(spec.features.from_event.values())
    assert not re.search(r"\b(dep_|arr_|air_time|landed_at|late\b)", sql)
    assert all(view.of != "events" for view in spec.features.views)


def test_pipelines_are_found_below_their_folder_and_loaded_by_name(tmp_path: Path) -> None:
    first = written(tmp_path / "a")
    second = written(tmp_path / "deep" / "b", replaced(DEFS, "name: returns", "name: refunds"))
    written(tmp_path / "c", "type: dagster.DefsFolderComponent\n")
    assert find_specs(tmp_path) == [first, second]
    assert load_pipeline("refunds", tmp_path).path == second


def test_a_pipeline_that_cannot_be_read_is_found_and_hides_no_other(tmp_path: Path) -> None:
    broken = written(tmp_path / "broken", "a: [1\n")
    right = written(tmp_path / "right")
    assert find_specs(tmp_path) == [broken, right]
    assert load_pipeline("returns", tmp_path).path == right


def test_a_pipeline_that_cannot_be_read_is_not_called_unknown(tmp_path: Path) -> None:
    broken = written(tmp_path / "mine", "type: x\nattributes: [1\n")
    written(tmp_path / "right")
    with pytest.raises(UserError, match=r"no pipeline 'mine' \(allowed: returns\)\n") as refused:
        load_pipeline("mine", tmp_path)
    assert f"\n{broken}:3:1 not YAML: " in str(refused.value)


def test_an_unknown_pipeline_is_refused_with_those_there_are(tmp_path: Path) -> None:
    written(tmp_path / "a")
    with pytest.raises(UserError, match=r"no pipeline 'return'; did you mean returns\? \(allowed: returns\)"):
        load_pipeline("return", tmp_path)
    with pytest.raises(UserError, match=r"no pipeline 'x' \(allowed: flight_delays"):
        load_pipeline("x")


def test_two_pipelines_of_one_name_are_refused_with_both_files(tmp_path: Path) -> None:
    paths = [written(tmp_path / folder) for folder in ("a", "b")]
    with pytest.raises(UserError, match="Two pipelines are called returns") as refused:
        load_pipeline("returns", tmp_path)
    assert all(str(path) in str(refused.value) for path in paths)


def test_all_pipelines_are_checked_or_one(tmp_path: Path) -> None:
    written(tmp_path / "a", replaced(DEFS, "name: returns", "name: refunds"))
    assert checked(root=tmp_path) == {"refunds": None}
    broken = written(tmp_path / "b", replaced(DEFS, "holdout: 28d", "holdout: 28"))
    found = checked(root=tmp_path)
    assert list(found) == ["refunds", "returns"]
    assert found["refunds"] is None
    assert f"{broken} has 1 problem:" in str(found["returns"])
    assert checked("refunds", tmp_path) == {"refunds": None}
    unread = written(tmp_path / "c", "a: [1\n")
    assert "not YAML" in str(checked(root=tmp_path)[str(unread)])
    with pytest.raises(UserError, match="There is no pipeline 'x'"):
        checked("x", tmp_path)


def test_two_pipelines_of_one_name_are_both_wrong(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        written(tmp_path / folder)
    assert "Two pipelines are called returns" in str(checked(root=tmp_path)["returns"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(), parts, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_a_hash_does_not_depend_on_the_order_of_keys(part: dict[str, object]) -> None:
    assert hash_of(part) == hash_of(dict(reversed(part.items())))


def test_a_hash_is_that_of_the_content() -> None:
    assert hash_of(Policy()) == hash_of(Policy().model_dump(mode="json"))
    assert hash_of([Policy(), timedelta(hours=36)]) == hash_of([Policy().model_dump(mode="json"), "36h"])
    assert hash_of(Policy()) != hash_of(Policy(mode="observe"))
    assert re.fullmatch("[0-9a-f]{64}", hash_of(None))
    with pytest.raises(TypeError, match="Path is no part of a spec"):
        hash_of(Path())


def test_the_json_schema_takes_the_pipelines_there_are_and_refuses_others() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    checker = jsonschema.Draft202012Validator(schema)
    for path in find_specs():
        assert list(checker.iter_errors(read_yaml(path).data)) == []
    assert not checker.is_valid({"type": "mlops_pipelines.LearningLoop", "attributes": {}})
    assert not checker.is_valid({"type": "x", "attributes": {}})


def test_loading_needs_no_data_frames() -> None:
    code = (
        "import sys; from mlops_pipelines.spec_loading import load_pipeline; load_pipeline('flight_delays');"
        "print({'pandas', 'numpy', 'pyarrow', 'dagster'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_parameters_of_another_trainer_are_its_own_matter(tmp_path: Path) -> None:
    search = "tune: {space: {steps: {low: 1, high: 9}}}"
    own = f"trainer: tests.own_trainers:Logistic\n    params: {{steps: 9}}\n    {search}"
    training = load_spec(written(tmp_path, replaced(DEFS, "params: {num_leaves: 31}", own))).spec.training
    assert training.params == {"steps": 9}

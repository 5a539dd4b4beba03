"""recipe.yaml and cluster.yaml: what is read, and the one line that is said where something is wrong."""

import os
from pathlib import Path

import pytest
import yaml

from disback_ray.algorithms.noise import KarrasNoise, LogNormalNoise
from disback_ray.config import ClusterConfig, Recipe, check_agreement, load_cluster, load_recipe, parse, recipe_text, shipped
from disback_ray.errors import ConfigError


def refusal(*overrides: str, recipe: str = "ring8") -> str:
    with pytest.raises(ConfigError) as refused:
        load_recipe(recipe, overrides=overrides)
    return one_line(refused)


def one_line(refused: "pytest.ExceptionInfo[ConfigError]") -> str:
    assert "\n" not in str(refused.value)
    return str(refused.value)


# -- what is read --


@pytest.mark.parametrize("name", shipped("recipes"))
def test_a_shipped_recipe_reads_the_same_once_resolved(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.summary
    assert "\n" not in recipe.summary
    resolved = yaml.safe_dump(recipe.model_dump(mode="json"))
    assert parse(resolved, model=Recipe, where="config.yaml") == recipe


@pytest.mark.parametrize("name", shipped("clusters"))
def test_a_shipped_cluster_file_reads_the_same_once_resolved(name: str) -> None:
    cluster = load_cluster(name)
    resolved = yaml.safe_dump(cluster.model_dump(mode="json", by_alias=True))
    assert parse(resolved, model=ClusterConfig, where="config.yaml") == cluster


def test_there_are_the_recipes_and_cluster_files_that_the_manual_names() -> None:
    assert {"digits", "ring8", "grid25"} <= set(shipped("recipes"))
    assert {"local", "four-3090", "three-3090"} <= set(shipped("clusters"))


def test_a_recipe_copied_into_a_file_is_the_same(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(recipe_text("ring8"), "utf-8")
    assert load_recipe(str(file)) == load_recipe("ring8")
    assert recipe_text(str(file)) == recipe_text("ring8")


def test_settings_go_where_their_key_says_and_the_last_one_wins() -> None:
    recipe = load_recipe("ring8", overrides=[
        "backtracking.steps=700", "backtracking.steps=800", "backtracking.generator.betas=[0.1, 0.2]", "evaluation.samples=null",
        "fit_noise={kind: lognormal, mean: -2}", "backtracking.noise.sigma_max=3", "recording.optimiser.lr=1.0e-4",
        "teacher.training.optimiser.lr=1e-5",
    ])  # fmt: skip
    assert recipe.backtracking.steps == 800
    assert recipe.backtracking.generator.betas == (0.1, 0.2)
    assert recipe.evaluation.samples is None
    assert recipe.fit_noise == LogNormalNoise(mean=-2.0)
    assert isinstance(recipe.backtracking.noise, KarrasNoise)
    assert recipe.backtracking.noise.sigma_max == 3.0
    assert recipe.recording.optimiser.lr == 1e-4
    assert recipe.teacher.training.optimiser.lr == 1e-5, "YAML 1.1 takes 1e-5 for a string"
    changed = load_recipe("ring8").model_dump() | {"backtracking": recipe.model_dump()["backtracking"]}
    assert changed["evaluation"] == load_recipe("ring8").evaluation.model_dump(), "what no key names stays"


def test_a_cluster_file_as_the_manual_has_it(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("""
        recipe: ring8
        address: 10.0.0.1:6379
        storage: s3://bucket/runs
        placement_timeout: 7
        roles:
          teacher:    {gpus: 1, accelerator: GeForce-RTX-3090, replicas: 2}
          path_node:  {with: teacher}
          generator:  {gpus: 0.5, cpus: 2}
    """)
    cluster = load_cluster(file, overrides=["roles.fake_score.cpus=3"])
    assert (cluster.recipe, cluster.address, cluster.storage, cluster.placement_timeout) == (
        "ring8", "10.0.0.1:6379", "s3://bucket/runs", 7.0,
    )  # fmt: skip
    roles = cluster.roles.by_name()
    assert set(roles) == {"teacher", "path_node", "fake_score", "generator", "evaluator", "teacher_trainer", "prompt_encoder"}
    assert (roles["teacher"].gpus, roles["teacher"].accelerator, roles["teacher"].replicas) == (1.0, "GeForce-RTX-3090", 2)
    assert (roles["path_node"].share, roles["path_node"].gpus) == ("teacher", None)
    assert (roles["generator"].gpus, roles["generator"].threads) == (0.5, 2)
    assert (roles["fake_score"].cpus, roles["fake_score"].threads, roles["teacher"].threads) == (3.0, 3, 1)


def test_processors_are_counted_as_ray_counts_them(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("roles: {teacher: {cpus: 0.33333}, generator: {cpus: 2}}")
    roles = load_cluster(tmp_path / "c.yaml").roles
    assert (roles.teacher.cpus, roles.generator.cpus) == (0.3333, 2.0)


def test_an_empty_cluster_file_has_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text("# nothing\n")
    assert load_cluster(tmp_path / "cluster.yaml") == ClusterConfig() == load_cluster(None)


# -- what is refused: the key, as it was written, and the value --


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("teacher.trainin.steps=3", "unknown key teacher.trainin; did you mean 'training'?"),
        ("teacher.network.widht=3", "unknown key teacher.network.widht; did you mean 'width'?"),
        ("recording.optimiser.Lr=3", "unknown key recording.optimiser.Lr; did you mean 'lr'?"),
        ("backtracking.noise.sigma_mx=3", "unknown key backtracking.noise.sigma_mx; did you mean 'sigma_max'?"),
        ("student.network.widht=3", "unknown key student.network.widht; did you mean 'width'?"),
        ("data.moods=3", "unknown key data.moods; did you mean 'modes'?"),
        ("wholly_unlike=3", "unknown key wholly_unlike"),
        ("backtracking.steps=abc", "backtracking.steps: 'abc': input should be a valid integer"),
        ("backtracking.steps=1.5", "backtracking.steps: 1.5: input should be a valid integer"),
        ("backtracking.steps=0", "backtracking.steps: 0: input should be greater than or equal to 1"),
        ("backtracking.steps=-1", "backtracking.steps: -1: input should be greater than or equal to 1"),
        ("backtracking.steps=[3]", "backtracking.steps: [3]: input should be a valid integer"),
        ("batch=.nan", "batch: nan: input should be a finite number"),
        ("teacher.sigma_data=.nan", "teacher.sigma_data: nan: "),
        ("teacher.sigma_data=.inf", "teacher.sigma_data: inf: "),
        ("teacher.sigma_data=-1", "teacher.sigma_data: -1: input should be greater than 0"),
        ("backtracking.generator.lr=.nan", "backtracking.generator.lr: nan: "),
        ("backtracking.generator.lr=0", "backtracking.generator.lr: 0: input should be greater than 0"),
        ("backtracking.generator.clip=-1", "backtracking.generator.clip: -1: input should be greater than 0"),
        ("backtracking.generator.betas=[0.5, 1]", "backtracking.generator.betas.1: 1: input should be less than 1"),
        ("backtracking.generator.betas=[0.5]", "backtracking.generator.betas.1: missing"),
        ("student.ema=1", "student.ema: 1: input should be less than 1"),
        ("student.network=none", "student.network: 'none': input should be 'teacher'"),
        (
            "student.network={kind: mpl}",
            "student.network.kind: 'mpl': expected one of ddpmpp, mlp, own; did you mean 'mlp'?",
        ),
        ("student.network={kind: ddpmpp, chanels: 3}", "unknown key student.network.chanels; did you mean 'channels'?"),
        ("student.network={module: 'a:b', kwarg: 3}", "unknown key student.network.kwarg; did you mean 'kwargs'?"),
        ("teacher={module: 'a:b', shap: 3}", "unknown key teacher.shap; did you mean 'shape'?"),
        ("data.std=0", "data.std: 0: input should be greater than 0"),
        ("teacher.network.kind=resnet", "teacher.network.kind: 'resnet': expected one of "),
        (f"teacher.network.kind={'r' * 5000}", f"teacher.network.kind: '{'r' * 55} …: expected one of "),
        ("backtracking.noise={low: 0.1}", "backtracking.noise.kind: missing"),
        ("backtracking.weighting=dmdx", "backtracking.weighting: 'dmdx': input should be 'score_difference' or 'dmd'"),
        ("teacher.exact_score=maybe", "teacher.exact_score: 'maybe': input should be a valid boolean"),
        ("teacher=3", "teacher: 3: "),
        ("recording=null", "recording: None: "),
        ("recording.optimiser={}", "recording.optimiser.lr: missing"),
        ("name=../x", "name: '../x': string should match pattern"),
        ("batch=1000000000000", "batch: 1000000000000: input should be less than or equal to 16777216"),
        ("student.network.width=1000000000", "student.network.width: 1000000000: input should be less than or equal to 16384"),
        ("teacher.network.blocks=100000000", "teacher.network.blocks: 100000000: input should be less than or equal to 1000"),
        ("backtracking.steps=99999999999", "backtracking.steps: 99999999999: input should be less than or equal to 1000000000"),
        ("evaluation.samples=1", "evaluation.samples: 1: input should be greater than or equal to 2"),
    ],
)
def test_a_wrong_key_or_value(setting: str, said: str) -> None:
    assert refusal(setting).startswith(f"ring8: {said}")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["micro_batches=3"], "micro_batches: 3 don't divide batch, 256"),
        (["wire_dtype=fp16"], "wire_dtype: 'fp16': input should be 'fp32' or 'bf16'"),
        (["backtracking.staleness=-1"], "backtracking.staleness: -1: input should be greater than or equal to 0"),
        (["backtracking.staleness=1", "backtracking.fuse_forward=true"], "backtracking: "),
        (["recording.at=[5, 2, 50]"], "recording.at: [5, 2, 50] must rise"),
        (["recording.at=[5, 5, 50]"], "recording.at: [5, 5, 50] must rise"),
        (["path=autoo"], "path: 'autoo': expected 'fixed', 'auto', or auto's settings"),
        (["recording.at=[5, 10]"], "recording: the last node is kept after step 10, not at the end, 50"),
        (["recording.every=5"], "recording: "),
        (["recording.at=null", "recording.every=20"], "recording: the last node is kept after step 40, not at the end, 50"),
        (
            ["backtracking.steps=300", "backtracking.steps_per_node=100"],
            "backtracking.steps: 300 leave none for the teacher after 300",
        ),
        (["backtracking.steps_per_node=[1, 2]"], "backtracking.steps_per_node: 2 numbers for 3 nodes"),
        (["backtracking.steps_per_node=[1, 0, 2]"], "backtracking.steps_per_node.1: 0: "),
        (["backtracking.steps_per_node=[]"], "backtracking.steps_per_node: []: "),
        (
            ["backtracking.noise={kind: karras, sigma_min: 9, sigma_max: 1}"],
            "backtracking.noise: sigma_min 9.0 is not below sigma_max 1.0",
        ),
        (["fit_noise={kind: timesteps, low: 20, high: 1000}"], "fit_noise: low 20, high 1000: expected times of 0 … 999"),
        (["fit_noise={kind: timesteps, low: 30, high: 20}"], "fit_noise: low 30, high 20: expected times"),
        (["fit_noise={kind: timesteps, schedule: {betas: [0.1]}}"], "betas: 1 values for steps: 1000"),
        (["fit_noise={kind: karras, low: 0.9, high: 0.1}"], "fit_noise: low 0.9 is not below high 0.1"),
        (["teacher.training.noise={kind: karras, low: 0.5, high: 0.5}"], "teacher.training.noise: low 0.5 is not below high 0.5"),
    ],
)
def test_settings_that_contradict_one_another(settings: list[str], said: str) -> None:
    assert said in refusal(*settings)


@pytest.mark.parametrize(
    ("recipe", "settings", "said"),
    [
        ("ring8", ["data={kind: digits}"], "teacher.network.kind: resnet-mlp is not for data of kind digits"),
        ("digits", ["data={kind: ring}"], "teacher.network.kind: ddpmpp is not for data of kind ring"),
        ("digits", ["teacher.exact_score=true"], "teacher.exact_score: no exact score is known for data of kind digits"),
        ("digits", ["student.network={kind: mlp}"], "student.network.kind: mlp is not for data of kind digits"),
        ("digits", ["evaluation.samples=64"], "evaluation.samples: 64; "),
        ("digits", ["teacher.network.multipliers=[1, 1, 1, 1, 1]"], "teacher.network: "),
    ],
)
def test_networks_and_data_that_do_not_fit(recipe: str, settings: list[str], said: str) -> None:
    assert f"{recipe}: {said}" in refusal(*settings, recipe=recipe)


@pytest.mark.parametrize("setting", ["noequals", "=3", "a..b=3", ".a=3", "a.=3", ""])
def test_a_setting_of_the_wrong_form(setting: str) -> None:
    assert refusal(setting) == f"--set {setting}: expected key=value, such as backtracking.steps=100"


def test_settings_below_a_value_or_of_no_yaml() -> None:
    assert refusal("batch.x=3") == "--set batch.x=3: batch holds a value, not keys"
    assert refusal("batch=[") == "--set batch=[: the value is not YAML"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("adress: auto", "unknown key adress; did you mean 'address'?"),
        ("roles: {teecher: {}}", "unknown key roles.teecher; did you mean 'teacher'?"),
        ("roles: {teacher: {gpu: 1}}", "unknown key roles.teacher.gpu; did you mean 'gpus'?"),
        ("roles: {teacher: {gpus: -1}}", "roles.teacher.gpus: -1: input should be greater than or equal to 0"),
        ("roles: {teacher: {gpus: .nan}}", "roles.teacher.gpus: nan: "),
        (
            "roles: {teacher: {gpus: 1.0e+15}}",
            "roles.teacher.gpus: 1000000000000000.0: input should be less than or equal to 10000",
        ),
        (
            "roles: {teacher: {cpus: 1.0e+15}}",
            "roles.teacher.cpus: 1000000000000000.0: input should be less than or equal to 10000",
        ),
        ("roles: {teacher: {replicas: 100000}}", "roles.teacher.replicas: 100000: input should be less than or equal to 10000"),
        ("roles: {generator: {ranks: 100000}}", "roles.generator.ranks: 100000: input should be less than or equal to 10000"),
        ("roles: {teacher: {accelerator: ''}}", "roles.teacher.accelerator: '': "),
        ("roles: {teacher: {accelerator: 'a b!'}}", "roles.teacher.accelerator: 'a b!': string should match pattern"),
        ("roles: {teacher: {accelerator: '!A100'}}", "roles.teacher.accelerator: '!A100': "),
        ("roles: {teacher: {cpus: 0.00001}}", "roles.teacher.cpus: 1e-05: input should be greater than or equal to 0.0001"),
        ("address: local\naddress: auto", "not YAML: address is there twice in one place, the second time in line 2"),
        ("roles: {teacher: {cpus: 0}}", "roles.teacher.cpus: 0: input should be greater than or equal to 0.0001"),
        ("roles: {teacher: {replicas: 0}}", "roles.teacher.replicas: 0: input should be greater than or equal to 1"),
        ("roles: {teacher: {replicas: 1.5}}", "roles.teacher.replicas: 1.5: "),
        ("roles: {path_node: {with: techer}}", "roles.path_node.with: 'techer': input should be 'teacher', "),
        ("roles: {path_node: {wiht: teacher}}", "unknown key roles.path_node.wiht; did you mean 'with'?"),
        ("roles: {path_node: {with: teacher_trainer}}", "roles.path_node.with: 'teacher_trainer': "),
        ("roles: {generator: {replicas: 2}}", "generator.replicas: 2; this role holds the weights: 1"),
        ("roles: {fake_score: {replicas: 3}}", "fake_score.replicas: 3; this role holds the weights: 1"),
        ("roles: {evaluator: {replicas: 2}}", "evaluator.replicas: 2; this role holds the weights: 1"),
        ("roles: {teacher: {ranks: 2}}", "teacher.ranks: 2; ranks train together, and this role doesn't train: replicas"),
        ("roles: {generator: {ranks: 0}}", "roles.generator.ranks: 0: input should be greater than or equal to 1"),
        ("roles: {generator: {sharding: fsdp}}", "generator.sharding: fsdp; one rank has nothing to share"),
        ("roles: {generator: {ranks: 2, sharding: zero}}", "roles.generator.sharding: 'zero': input should be 'ddp' or 'fsdp'"),
        ("placement_timeout: 0", "placement_timeout: 0: input should be greater than 0"),
        ("placement_timeout: .inf", "placement_timeout: inf: "),
        ("storage: 3", "storage: 3: input should be a valid string"),
        ("roles: null", "roles: None: "),
    ],
)
def test_a_wrong_cluster_file(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_cluster(file)
    assert one_line(refused).startswith(f"{file}: ")
    assert said in one_line(refused)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "name, data, teacher, batch, recording, backtracking: missing"),
        (b"- 1\n- 2\n", "holds list, not keys and values"),
        (b"hello", "holds str, not keys and values"),
        (b"a: [", "not YAML: "),
        (b"a: b: c", "not YAML: "),
        (b"a: \0", "not YAML: "),
        (b"? [1]\n: 2", "not YAML: "),
        (b"[" * 3000, "not YAML: "),
        (bytes(range(256)), "not a text file"),
        (b"name: !!python/object/apply:os.getcwd []", "not YAML: line 1, column 7: could not determine a constructor"),
        (b"name: 2020-02-02", "name: datetime.date(2020, 2, 2): input should be a valid string"),
        (b"name: 2020-02-31", "not YAML: "),
        (b"1: 2", "name, data, teacher, batch, recording, backtracking: missing"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(content)
    assert refusal(recipe=str(file)).startswith(f"{file}: {said}")


def test_a_file_that_is_not_there_or_a_folder(tmp_path: Path) -> None:
    assert refusal(recipe=str(tmp_path)) == f"{tmp_path}: Is a directory"
    assert refusal(recipe=str(tmp_path / "no.yaml")) == f"{tmp_path / 'no.yaml'}: No such file or directory"
    (tmp_path / "endless.yaml").touch()
    os.truncate(tmp_path / "endless.yaml", 1 << 40)  # holes: no memory has room for it
    assert "larger than 1 MiB" in refusal(recipe=str(tmp_path / "endless.yaml"))


def test_names_that_are_not_shipped() -> None:
    assert refusal(recipe="rign8").startswith("unknown recipe 'rign8'; did you mean 'ring8'?; shipped: afhqv2-64-cd, ")
    assert "did you mean" not in refusal(recipe="wholly unlike")
    with pytest.raises(ConfigError, match=r"^unknown cluster 'locale'; did you mean 'local'\?; shipped: .*local"):
        load_cluster("locale")


@pytest.mark.parametrize("override", ["batch=true", "recording.at=[true,50]", "backtracking.generator.lr=true"])
def test_true_is_no_number(override: str) -> None:
    with pytest.raises(ConfigError, match=r"true: expected a (int|float)"):
        load_recipe("ring8", overrides=[override])


@pytest.mark.parametrize(
    ("roles", "settings", "said"),
    [
        ("fake_score: {ranks: 2}", [], "micro_batches: 1 can't be shared out among roles.fake_score.ranks: 2: "),
        ("generator: {ranks: 4}", ["micro_batches=2"], "micro_batches: 2 can't be shared out among roles.generator.ranks: 4: "),
        (
            "fake_score: {ranks: 2}",
            ["micro_batches=2", "backtracking.staleness=1"],
            "backtracking.staleness: 1: not with roles.fake_score.ranks: 2: ",
        ),
        (
            "generator: {ranks: 2, sharding: fsdp}",
            ["micro_batches=2", "backtracking.generator.offload=true"],
            "backtracking.generator.offload: True: not with roles.generator.sharding: fsdp; ",
        ),
        (
            "fake_score: {ranks: 2, sharding: fsdp}",
            ["micro_batches=2", "precision.fake_score=bf16_stochastic"],
            "precision.fake_score: bf16_stochastic: not with roles.fake_score.sharding: fsdp; ",
        ),
        ("teacher_trainer: {replicas: 300}", [], "roles.teacher_trainer.replicas: 300 workers for teacher.training.batch: 256"),
    ],
)
def test_what_a_recipe_and_a_cluster_can_t_agree_on(roles: str, settings: list[str], said: str) -> None:
    cluster = parse(f"roles: {{{roles}}}", model=ClusterConfig, where="cluster.yaml")
    with pytest.raises(ConfigError) as refused:
        check_agreement(load_recipe("ring8", overrides=settings), cluster)
    assert one_line(refused).startswith(said)
    check_agreement(load_recipe("ring8", overrides=["micro_batches=4"]), ClusterConfig())

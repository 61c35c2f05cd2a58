"""Command lines that cannot be carried out, and what the sentence must say; files are those of `bad_files`."""

from __future__ import annotations

LINES = r"""
# flags
train_controller --sede 3 | unknown flag '--sede' (did you mean '--seed'?)
train_controller --learning-rat 3 | did you mean '--learning_rate'?
train_controller --nonsense | unknown flag '--nonsense': --help lists
train_controller seed 3 | 'seed' belongs to no flag
train_controller --seed | --seed wants a whole number, and none is given
train_controller --seed --resume | --seed wants a whole number, and none is given
train_controller --seed three | --seed wants a whole number, got 'three'
train_controller --seed 1.5 | --seed wants a whole number, got '1.5'
train_controller --seed 1 2 | --seed wants a whole number, got '1 2'
train_controller --seed "" | --seed wants a whole number, got ''
train_controller --learning_rate fast | --learning_rate wants a number, got 'fast'
train_controller --flop_price 1 2 3 | --flop_price wants a number or 2 numbers, got '1 2 3'
train_controller --resume=maybe | --resume wants True or False
train_controller --tensorboard 3 | --tensorboard wants True or False
train_controller --no_seed | unknown flag '--no_seed'
train_controller --capacity few | --capacity wants a whole number or None
train_controller --output_dir | --output_dir wants a path
train_controller --output_dir "" | --output_dir must name a file or a folder
train_controller --config | --config wants a YAML file
benchmark step entropy | 'entropy' belongs to no flag
benchmark entropy --device foo | 'foo'
benchmark entropy --lengths 64.9 | whole numbers
benchmark walk | unknown benchmark 'walk'
benchmark --clock sun | --clock wants one of wall, cpu
demo --train 3 | unknown flag '--train'
train_es --rounds a b | --rounds wants whole numbers with blanks between
train_es --pruned_share 0.1 | --pruned_share wants 2 numbers
neural_plasticity_cycle --compare_strategies | unknown flag
# YAML
train_controller --config missing.yaml | no config file at 'missing.yaml'
train_controller --config folder | no config file at 'folder'
train_controller --config null.yaml | must hold a mapping of argument names to values, got None
train_controller --config empty.yaml | must hold a mapping
train_controller --config list.yaml | must hold a mapping of argument names to values, got ['seed', 3]
train_controller --config text.yaml | must hold a mapping
train_controller --config broken.yaml | 'broken.yaml' is not YAML
train_controller --config tag.yaml | 'tag.yaml' is not YAML
train_controller --config tab.yaml | 'tab.yaml' is not YAML
train_controller --config latin.yaml | 'latin.yaml' is not YAML
train_controller --config binary.yaml | 'binary.yaml' is not YAML
train_controller --config unknown.yaml | unknown key in unknown.yaml 'sede' (did you mean 'seed'?)
train_controller --config number_key.yaml | unknown key in number_key.yaml 3
train_controller --config none.yaml | seed in none.yaml should be like 1, got None
train_controller --config word.yaml | seed in word.yaml should be like 1, got 'three'
train_controller --config true.yaml | seed in true.yaml should be like 1, got True
train_controller --config half.yaml | seed in half.yaml should be like 1, got 1.5
train_controller --config negative.yaml | seed must be a whole number of at least 0, got -1
train_controller --config nan.yaml | learning_rate must lie in (0, 100], got nan
train_controller --config infinite.yaml | learning_rate must lie in (0, 100], got inf
train_controller --config rate.yaml | learning_rate in rate.yaml should be like 0.001, got 'fast'
train_controller --config settings.yaml | settings in settings.yaml must hold a mapping
train_controller --config inside.yaml | did you mean 'units'?
train_controller --config price.yaml | flop_price must be a number or a range of two numbers
train_controller --config prices.yaml | flop_price in prices.yaml should be like
train_controller --config path.yaml | output_dir in path.yaml should be of type Path
train_controller --config no_path.yaml | output_dir in no_path.yaml
train_controller --config switch.yaml | resume in switch.yaml should be like False, got 'maybe'
train_controller --config bomb.yaml | seed in bomb.yaml should be like 1
demo --config units.yaml | 7
demo --config players.yaml | unknown controller 'foo'
demo --config unknown.yaml | unknown key in unknown.yaml 'sede'
neural_plasticity_experiment --config list.yaml | must hold a mapping
run_neural_plasticity --config null.yaml | must hold a mapping
sweep --file missing.yaml | no sweep at 'missing.yaml'
sweep --file folder | no sweep at 'folder'
sweep --file null.yaml | 'null.yaml' is no sweep
sweep --file list.yaml | 'list.yaml' is no sweep
sweep --file latin.yaml | 'latin.yaml' is no sweep
sweep --file unknown.yaml | 'unknown.yaml' is no sweep
sweep --count 0 | count must be
# names
train_controller --agent dqn | unknown agent 'dqn'
train_controller --agent pppo | did you mean 'ppo'?
train_controller --env head | did you mean 'heads'?
train_controller --mode adaptiv | unknown mode 'adaptiv'
train_controller --reward ppl | unknown reward 'ppl'
train_controller --repair glue | unknown repair 'glue'
train_controller --units mlp | unknown units 'mlp'
train_controller --neuron_order random | unknown
train_controller --growth_init zeros | unknown
train_controller --context fo | unknown context 'fo'
train_controller --head_features fischer_z | unknown head feature 'fischer_z'
train_controller --device gpu | unknown device 'gpu'
train_controller --device cuda:99 | device 'cuda:99' is not available
train_controller --device mps | device 'mps' is not supported
train_controller --wandb_mode foo | unknown W&B mode 'foo'
train_controller --start_from nobody | unknown controller 'nobody'
train_controller --start_from fisher | has no network to train
train_controller --model_name "" | model_name is empty
train_controller --model_name ", ," | model_name is empty
train_controller --model_name bard-gpt2-4x5 | did you mean 'bard-gpt2-4x4'?
evaluate_controllers --controllers fischer | did you mean 'fisher'?
evaluate_controllers --controllers "" | at least one controller
evaluate_controllers --controllers fisher,fisher | controllers must differ
evaluate_controllers --controllers ann:nobody | unknown shipped controller 'nobody'
evaluate_controllers --controllers ann:tokens | no longer ships
evaluate_controllers --controllers constant:nothing | 'nothing'
evaluate_controllers --repair "" | at least one controller and one repair
evaluate_controllers --env maze | unknown environment 'maze'
evaluate_controllers --prune_entropy up | 'up'
play_episode --controller nobody | unknown controller 'nobody'
play_episode --controller "" | controller must be a name or a path
play_episode --render film | unknown render 'film'
play_episode --env maze | unknown environment 'maze'
export_model --format zip | unknown
export_model --strategy fischer | did you mean 'fisher'?
export_model --dtype int8 | unknown dtype 'int8'
prune_heads --strategy fischer | did you mean 'fisher'?
prune_heads --prune_entropy up | unknown entropy direction 'up'
expand_heads --growth_strategy balance | did you mean 'balanced'?
expand_heads --initial_weights zeros | zeros
leaderboard --players fischer | did you mean 'fisher'?
leaderboard --players fisher@0 | at least one round
leaderboard --players fisher@two | must be a whole number of rounds
leaderboard --players fisher:option | takes no option
leaderboard --players fisher --versus nobody | unknown player of --versus
leaderboard --players os.path:nothing | no controller at os.path:nothing
leaderboard --players fisher --submissions no_such.module:player | (ModuleNotFoundError
leaderboard --players fisher --submissions fisher | neither the folder of a saved controller
learning_curves --agents dqn | unknown agent 'dqn'
learning_curves --agents "" | agents is empty
learning_curves --agents ppo:mlp | unknown network 'mlp'
learning_curves --reference nobody | nobody
train_es --features fischer_z | unknown feature 'fischer_z'
train_es --start_feature depht | unknown feature 'depht'
train_es --reference nobody | nobody
tune_plasticity --reference nobody | nobody
study_adaptive --stages home,home --arms nobody | nobody
study_adaptive --stages home,home --arms once:nobody | nobody
study_adaptive --stages here,there | stages name 'home' or 'shift'
pretrain_zoo --models bard-x | unknown model
pretrain_zoo --recipe adam | unknown recipe 'adam'
run_neural_plasticity --pruning_strategy nobody | unknown pruning strategy 'nobody'
run_neural_plasticity --compare_strategies --strategies entropy,nobody | unknown pruning strategy 'nobody'
run_neural_plasticity --compare_strategies --strategies entropy,entropy | names one twice
run_neural_plasticity --compare_strategies --strategies "" | at least one
run_neural_plasticity --growth_strategy nobody | unknown growth strategy 'nobody'
run_neural_plasticity --level_schedule slow | unknown level schedule 'slow'
neural_plasticity_experiment --growth_strategies nobody | unknown growth strategy 'nobody'
neural_plasticity_experiment --repairs glue | unknown repair 'glue'
adaptive_neural_plasticity --pruning_mode both | unknown mode 'both'
test_head_growth_unit --verbose maybe | --verbose wants True or False
# numbers
train_controller --seed -1 | seed must be a whole number of at least 0, got -1
train_controller --seed 4294967296 | seed 4294967296 is more than 4294967295
train_controller --seed 99999999999999999999 | is more than 4294967295
train_controller --total_timesteps 0 | total_timesteps must be a whole number of at least 1
train_controller --total_timesteps 99999999999999999999 | is more than 2147483647
train_controller --num_steps -4 | num_steps must be a whole number of at least 1
train_controller --envs_per_model 0 | envs_per_model must be a whole number of at least 1
train_controller --width 0 | width must be a whole number of at least 1
train_controller --learning_rate 1e38 | learning_rate must
train_controller --train_rate inf | learning_rate must
train_controller --train_rate 1e38 | learning_rate must
train_controller --ent_coef inf | ent_coef must lie in
train_controller --keep_bias nan | keep_bias must lie in
train_controller --gamma 1.5 | gamma must lie in [0, 1]
train_controller --target_kl inf | target_kl must be above 0 and finite
train_controller --flop_price nan | flop_price must lie above 0
train_controller --flop_price 1e38 | flop_price must lie above 0, at most 1e+06
train_controller --flop_price 3 1 | smaller end first
train_controller --flop_budget 2 | flop_budget must lie above
train_controller --max_sparsity -0.5 | max_sparsity must
train_controller --max_sparsity nan | max_sparsity must
train_controller --prefix_mb inf | prefix_mb must
train_controller --horizon 0 | horizon must be a whole number of at least 1
train_controller --batch_size 0 | batch_size must be a whole number of at least 1
train_controller --max_length 1 | max_length must be a whole number of at least 2
train_controller --mlp_blocks 0 | mlp_blocks must be a whole number of at least 1
train_controller --env head_rank --rounds 0 | rounds
train_controller --env head_rank --pruned_share 0.5 2 | pruned_share
train_controller --env head_rank --scenarios 0 | scenarios must be
evaluate_controllers --sparsities 0.2,1.0 | [0, 1)
evaluate_controllers --sparsities nan | --sparsities wants numbers separated by commas
evaluate_controllers --sparsities "" | at least one sparsity
evaluate_controllers --flop_prices -1 | price
evaluate_controllers --flop_prices 1e38 | price
evaluate_controllers --seeds 0 | seeds must be
evaluate_controllers --rounds 0 | rounds must be
evaluate_controllers --test_blocks 0 | test_blocks must be a whole number of at least 1
play_episode --seed 4294967296 | seed
play_episode --aggressiveness 2 | aggressiveness
play_episode --sparsity 2 | sparsity must lie in [0, 1)
play_episode --sparsity 1 | sparsity must lie in [0, 1)
play_episode --controller fisher --sparsity nan | sparsity must lie in [0, 1)
play_episode --test_blocks 0 | test_blocks must be
export_model --pruning_level 1 | pruning_level must lie in [0, 1)
export_model --pruning_level nan | pruning_level must lie in [0, 1)
export_model --format uniform --uniform_heads 0 | heads
prune_heads --pruning_level inf | pruning_level must lie in [0, 1)
prune_heads --seed -1 | seed must be a whole number of at least 0
prune_heads --test_blocks 0 | test_blocks must be
expand_heads --growth_percentage 0 | growth_percentage
expand_heads --initial_scale nan | initial_scale
expand_heads --warmup_steps -1 | warmup_steps
fine_tune_model --learning_rate inf | learning_rate must lie in (0, 100]
fine_tune_model --learning_rate 1e38 | learning_rate must
fine_tune_model --temperature nan | temperature must lie in (0, 1e+06]
fine_tune_model --new_head_lr_multiplier inf | new_head_lr_multiplier must lie in (0, 1e+06]
fine_tune_model --distillation 2 | distillation must lie in [0, 1]
fine_tune_model --epochs 0 | epochs must be
leaderboard --players fisher --shares 0 | shares must lie between 0 and 1
leaderboard --players fisher --shares 0.3,nan | --shares wants numbers
leaderboard --players fisher --shares "" | shares
leaderboard --players fisher --seeds 0 | seeds
leaderboard --players fisher --test_blocks 0 | test_blocks must be
leaderboard --players fisher --workers 0 | workers
learning_curves --total_timesteps 0 | total_timesteps must be
learning_curves --pruned_share 2 | pruned_share
learning_curves --pruned_share 0.1,0.2,0.3 | pruned_share
learning_curves --first_seed -1 | seed
train_es --population 1 | population must be a whole number of at least 4
train_es --sigma inf | sigma must
train_es --pruned_share 0.5 0.1 | pruned_share
train_es --rounds 0 | rounds must be
tune_plasticity --sigma nan | sigma must
tune_plasticity --rounds 0 | rounds
tune_plasticity --pruned_share x | --pruned_share wants numbers
study_adaptive --share 1 | share must lie in (0, 1)
study_adaptive --learning_rate nan | learning_rate
study_adaptive --stages home,home --seeds 0 | seeds
study_adaptive --batch_size 0 | batch_size
pretrain_zoo --minutes inf | must be above zero
pretrain_zoo --threads 0 | must be above zero
pretrain_zoo --tokens 0 | must be above zero
pretrain_zoo --seed 4294967296 | seed
benchmark step --lengths 1 | whole numbers of at least 2
benchmark step --lengths 1e38 | tokens (2048) at least the longest
benchmark step --rounds 0 | rounds must be at least 1
benchmark step --tokens 8 | tokens (8)
benchmark vector --memory_share nan | memory_share
benchmark vector --envs 0 | --envs wants whole numbers
benchmark compact --sparsities 1.5 | sparsities
run_neural_plasticity --pruning_level 1 | pruning_level must lie in [0, 1)
run_neural_plasticity --cycles 0 | cycles must be
run_neural_plasticity --learning_rate inf | learning_rate must be
run_neural_plasticity --max_perplexity_increase nan | max_perplexity_increase
run_neural_plasticity --seed 4294967296 | seed
neural_plasticity_cycle --initial_pruning 1 | initial_pruning must lie in [0, 1)
neural_plasticity_experiment --pruning_levels 0.1,x | --pruning_levels wants numbers
neural_plasticity_experiment --cycles 1.5 | --cycles wants whole numbers
neural_plasticity_experiment --seeds 0 | seeds
neural_plasticity_experiment --warmup_steps inf | --warmup_steps wants numbers
neural_plasticity_experiment --warmup_steps 500 --training_steps 10 | end within a cycle
adaptive_neural_plasticity --controller_lr -1 | controller_lr
adaptive_neural_plasticity --controller_lr inf | controller_lr
adaptive_neural_plasticity --entropy_bonus nan | entropy_bonus
adaptive_neural_plasticity --importance_threshold 2 | importance_threshold
adaptive_neural_plasticity --entropy_threshold nan | entropy_threshold
# flags that contradict each other, and targets that cannot be reached
train_controller --agent sb3_ppo --capacity 4 | at most 4
export_model --neuron_order kfac | use it with units='heads+mlp'
prune_heads --model_name bard-gpt2-4x4 --calibration_blocks 99999 | calibration_blocks 99999 is more than
train_controller --capacity 9 | --capacity is for --agent sb3_ppo
train_controller --num_env_runners 2 | --num_env_runners is for --agent rllib_ppo
train_controller --agent sb3_maskable_ppo --env head_rank | agent sb3_maskable_ppo trains on
train_controller --env head_rank --train_steps 2 | HeadRank trains on frozen models
train_controller --mode adaptive,compressed | need --env head_rank
train_controller --context linear | use it with --env head_rank
train_controller --neuron_order kfac | use it with units='heads+mlp'
train_controller --resume | --resume needs --output_dir
train_controller --agent sb3_ppo --resume --output_dir folder | keeps no checkpoint
train_controller --env head_rank --max_sparsity 0.3 | than max_sparsity 0.3 lets go
play_episode --sparsity 0.3 | leave --sparsity out
play_episode --env head_rank --controller fisher --sparsity 0.95 | than max_sparsity 0.9 lets go
export_model --uniform_heads 2 | is for --format uniform
export_model --format uniform --rounds 2 | prunes in one round
fine_tune_model --resume | --resume needs the --output_path
neural_plasticity_experiment --workers 2 | needs --ray_address
learning_curves --agents es:attention | write es
train_es --start_feature depth --features fisher_z | must be one of the features
study_adaptive --stages home,home --shift_dataset short.txt | do not fit
benchmark step --clock cpu --device cuda | leave --clock at wall
# models
train_controller --model_name missing/model/folder | no model at 'missing/model/folder'
train_controller --model_name ./missing | no model at './missing'
train_controller --model_name missing.gguf | no GGUF file at 'missing.gguf'
train_controller --model_name folder | is no Hugging Face folder (no config.json)
train_controller --model_name list_plastic | no config.json
train_controller --model_name text.gguf | cannot load model 'text.gguf'
train_controller --model_name empty.gguf | cannot load model 'empty.gguf'
train_controller --model_name short.txt | 'short.txt'
train_controller --model_name no_weights | cannot load model 'no_weights'
train_controller --model_name empty_weights | cannot load model 'empty_weights'
train_controller --model_name text_weights | cannot load model 'text_weights'
train_controller --model_name cut_weights | cannot load model 'cut_weights'
train_controller --model_name code_weights | cannot load model 'code_weights'
train_controller --model_name empty_config | cannot load model 'empty_config'
train_controller --model_name list_config | cannot load model 'list_config'
train_controller --model_name number_config | cannot load model 'number_config'
train_controller --model_name other_config | cannot load model 'other_config'
train_controller --model_name latin_config | cannot load model 'latin_config'
train_controller --model_name list_tokenizer | cannot load model 'list_tokenizer'
play_episode --model_name empty_config | cannot load model
evaluate_controllers --controllers fisher --model_name text_weights | cannot load model
export_model --model_name other_config | cannot load model
prune_heads --model_name empty_weights | cannot load model
leaderboard --players fisher --models number_config | cannot load model
train_es --model_name code_weights | cannot load model
tune_plasticity --model_name latin_config | cannot load model
study_adaptive --stages home,home --model_name list_config | cannot load model
benchmark step --models cut_weights | cannot load model
run_neural_plasticity --model_name empty_config --dataset shakespeare | cannot load model
neural_plasticity_experiment --model_name empty_config --dataset shakespeare | cannot load model
# checkpoints
expand_heads | no --model_path
expand_heads --model_path missing | no checkpoint of a pruned model at 'missing'
expand_heads --model_path folder | no checkpoint of a pruned model at 'folder'
expand_heads --model_path folder.pth | no checkpoint of a pruned model at 'folder.pth'
expand_heads --model_path empty.pth | 'empty.pth' cannot be read
expand_heads --model_path text.pth | 'text.pth' cannot be read
expand_heads --model_path code.pth | 'code.pth' cannot be read
expand_heads --model_path foreign.pth | 'foreign.pth' cannot be read
expand_heads --model_path list.pth | it holds a list
expand_heads --model_path tensor.pth | it holds a Tensor
expand_heads --model_path newer.pth | it has format 99, known is 1
expand_heads --model_path shape.pth | 'shape.pth' cannot be read
expand_heads --model_path list_plastic | 'list_plastic' cannot be read
expand_heads --model_path empty_plastic | 'empty_plastic' cannot be read
expand_heads --model_path null_plastic | 'null_plastic' cannot be read
fine_tune_model --model_path code.pth | 'code.pth' cannot be read
fine_tune_model --model_path missing.pth | no checkpoint of a pruned model
prune_heads --model_name text.pth | 'text.pth' cannot be read
export_model --model_name foreign.pth | 'foreign.pth' cannot be read
# controllers
play_episode --controller folder | no controller at 'folder'
play_episode --controller missing/controller | unknown controller 'missing/controller'
play_episode --controller empty_controller | 'empty_controller'
play_episode --controller list_controller | 'list_controller'
play_episode --controller null_controller | 'null_controller'
play_episode --controller newer_controller | controller format 99
play_episode --controller shape_controller | 'shape_controller'
play_episode --controller width_controller | 'width_controller'
play_episode --controller text_controller | 'text_controller'
play_episode --controller blank_controller | 'blank_controller'
play_episode --controller changed_controller | is damaged
play_episode --controller list_digests | is damaged
evaluate_controllers --controllers folder | no controller at 'folder'
train_controller --start_from list_controller | 'list_controller'
adaptive_neural_plasticity --controller folder --model_name bard-gpt2-4x4 | no controller at 'folder'
run_neural_plasticity --pruning_strategy controller --controller missing | no controller at 'missing'
leaderboard --players text_controller | 'text_controller'
leaderboard --players "" --submissions folder | no controller at 'folder'
# texts
train_controller --dataset missing.txt | 'missing.txt'
train_controller --dataset short.txt | four splits need
train_controller --dataset empty.txt | 'empty.txt'
train_controller --dataset table.csv | 'table.csv'
train_controller --dataset folder | 'folder'
train_controller --dataset empty.jsonl | 'empty.jsonl'
train_controller --dataset list.jsonl | 'list.jsonl'
train_controller --dataset other.jsonl | 'other.jsonl'
train_controller --dataset number.jsonl | 'number.jsonl'
train_controller --dataset empty.parquet | 'empty.parquet'
train_controller --dataset latin.txt | 'latin.txt'
train_controller --dataset nobody/nothing | without a network use --dataset shakespeare
prune_heads --model_name bard-gpt2-4x4 --dataset empty.jsonl | 'empty.jsonl'
# runs and files of cells
train_controller --resume --output_dir folder | no checkpoint in 'folder' to resume from
train_controller --output_dir trained | holds a run already
train_controller --resume --output_dir trained | checkpoint.pt
train_controller --resume --output_dir list_trained | config.yaml
train_controller --resume --output_dir binary_trained | config.yaml
train_controller --resume --output_dir shape_trained | holds no state of a training
train_es --output_dir searched | history.json
train_es --output_dir null_searched | history.json
run_neural_plasticity --resume missing | 'missing'
run_neural_plasticity --resume folder | 'folder'
run_neural_plasticity --resume list_run | list_run
run_neural_plasticity --resume empty_run | empty_run
run_neural_plasticity --resume latin_run | latin_run
run_neural_plasticity --resume foreign_run | not of this experiment
run_neural_plasticity --resume value_run | cycles
run_neural_plasticity --resume tracking_run | tracking
neural_plasticity_cycle --resume folder | 'folder'
adaptive_neural_plasticity --resume list_arguments | controller_arguments.json
leaderboard --players fisher --output cells.jsonl | line 1 of 'cells.jsonl'
leaderboard --players fisher --output prose.jsonl | prose.jsonl
leaderboard --players "" --output missing.jsonl | holds no cell
leaderboard --players fisher --docs page.md | page.md
study_adaptive --stages home,home --output cells.jsonl | cells.jsonl
study_adaptive --stages home,home --page half.md | only one of the marks
learning_curves --output_dir list_curves | list_curves
make_pictures --demo missing | no demo results at
make_pictures --demo damaged_demo | is damaged
make_pictures --demo list_demo | list_demo
# places that cannot be written to
train_controller --output_dir short.txt | is a file, not a folder
train_controller --output_dir short.txt/run | 'short.txt' is a file, not a folder
train_controller --output_dir /proc/nope | /proc/nope
evaluate_controllers --output_dir /proc/nope | /proc/nope
demo --folder /proc/nope | /proc/nope
demo --folder short.txt | is a file, not a folder
play_episode --record folder | --record 'folder' is a folder: name a file
play_episode --record /proc/nope/e.json | /proc/nope
export_model --output_path full | exists already and is not an empty folder
export_model --output_path /proc/nope | /proc/nope
prune_heads --output_path full | holds something else
prune_heads --output_path folder.pth | is a folder
prune_heads --output_path text.pth | is a file of something else
prune_heads --output_path short.txt | is a file
fine_tune_model --output_path /proc/nope.pth | /proc/nope.pth
leaderboard --output folder | --output 'folder' is a folder: name a file
leaderboard --output /proc/nope/cells.jsonl | /proc/nope
leaderboard --page /proc/nope/page.html | /proc/nope
learning_curves --output_dir /proc/nope | /proc/nope
train_es --output_dir /proc/nope | /proc/nope
tune_plasticity --output /proc/nope/rule.json | /proc/nope
study_adaptive --output /proc/nope/cells.jsonl | /proc/nope
study_adaptive --picture folder | --picture 'folder' is a folder: name a file
make_pictures --output_dir /proc/nope | /proc/nope
pretrain_zoo --output_dir /proc/nope | /proc/nope
run_neural_plasticity --output_dir full | exists already and is not an empty folder
run_neural_plasticity --output_dir /proc/nope | /proc/nope
neural_plasticity_experiment --output_dir /proc/nope | /proc/nope
adaptive_neural_plasticity --output_dir full | exists already and is not an empty folder
"""


def rows() -> list[tuple[str, str]]:
    """(command line, part of the sentence)."""
    lines = [line for line in LINES.splitlines() if line and not line.startswith("#")]
    return [(line, said) for line, _, said in (each.partition(" | ") for each in lines)]

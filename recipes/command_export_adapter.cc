// SPDX-License-Identifier: MIT
#include "quern/recipes/internal/command_export_adapter.h"

#include "quern/recipes/adapter.h"

namespace quern {

void ExportAdapterCommand::define(CLI::App& app) {
  CLI::App* c = app.add_subcommand("export-adapter", "What fine-tuning has trained, by itself");
  c->footer("Example:\n  quern export-adapter build/finetune --out build/adapter");
  c->add_option("model", model, "a run with finetune.method experts or lora, or a step of it")
      ->required();
  c->add_option("--out", out,
                "a folder: experts.json and model.safetensors, or PEFT's adapter_config.json and "
                "adapter_model.safetensors")
      ->required();
  c->callback([this] { export_adapter(find_model_file(model), out); });
}

}  // namespace quern

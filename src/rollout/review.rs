//! Whether readers are such that a rotation can move them: looked at before one is begun, and by a preflight.

use super::Readers;
use super::reference::Reference;
use super::workload::Workload;
use crate::failure::{Failure, FailureClass, Finding};
use crate::ident::Version;
use crate::kubernetes::gitops::Tool;
use crate::policy::spec::{WorkloadName, WorkloadsSpec};

/// Why readers cannot be moved as a policy says.
struct Misfit {
    why: String,
    remedy: String,
}

impl Readers {
    /// # Errors
    /// `Invalid` when one of them cannot be moved as the policy says, or would count as moved already.
    pub(crate) fn review(&self, spec: &WorkloadsSpec) -> Result<(), Failure> {
        self.misfits(spec).into_iter().next().map_or(Ok(()), |misfit| Err(self.refusal(&misfit)))
    }

    /// Refuses numbers that are taken already: whoever carries one would count as moved. Those up to `held` are of
    /// this Secret.
    ///
    /// # Errors
    /// `Invalid`, which names the first.
    pub(crate) fn review_numbers(&self, next: Version, held: Version) -> Result<(), Failure> {
        let is_taken = |version: Version| version >= next && version > held;
        let annotation = &self.names.annotation;
        let taken = self.workloads.iter().find_map(|workload| {
            if is_taken(workload.told) {
                return Some(Misfit {
                    why: format!("the pod template of {} names {} already", workload.name, workload.told),
                    remedy: format!(
                        "that number is of another store, or of Git: take the annotation {annotation} out of the \
                         template, which restarts it once"
                    ),
                });
            }
            let pod = self.pods_of(workload).find(|pod| pod.leaves.is_none() && is_taken(pod.version))?;
            Some(Misfit {
                why: format!("pod {} of {} names {} already", pod.name, workload.name, pod.version),
                remedy: format!("that number is of another store: restart {}", workload.name),
            })
        });
        taken.map_or(Ok(()), |misfit| Err(self.refusal(&misfit)))
    }

    fn refusal(&self, misfit: &Misfit) -> Failure {
        let doing =
            format!("move the readers of Secret {}:{}/{}", self.cluster, self.namespace, self.names.secret);
        Failure::new(FailureClass::Invalid, doing, &misfit.why).with_remedy(misfit.remedy.clone())
    }

    fn misfits(&self, spec: &WorkloadsSpec) -> Vec<Misfit> {
        let ordered = spec.after.iter().flat_map(|order| order.waits_for.iter().chain([&order.workload]));
        let fields = ordered.map(|name| ("after", name));
        let reloading = spec.reload_themselves.iter().map(|name| ("reloadThemselves", name));
        let absent = fields.chain(reloading).filter(|(_, name)| self.workload(name).is_none());
        let mut misfits: Vec<Misfit> = absent
            .map(|(field, name)| Misfit {
                why: format!("there is no {name} that reads it"),
                remedy: format!("correct `workloads.{field}` in the policy"),
            })
            .collect();
        misfits.extend(self.workloads.iter().filter(|workload| workload.never_sees()).map(|workload| Misfit {
            why: format!(
                "{} is said to reload it, and has it in its environment or mounts it by `subPath`, where it is never \
                 renewed",
                workload.name
            ),
            remedy: "take it out of `workloads.reloadThemselves`, or have it read a volume as a whole".into(),
        }));
        let pinned = self.workloads.iter().filter(|workload| self.declared.is_none() && workload.is_pinned);
        misfits.extend(pinned.filter_map(|workload| {
            let (tool, annotation) = (workload.keeper.as_ref()?, &self.names.annotation);
            Some(Misfit {
                why: format!("{tool} writes back what Git says of {annotation} in {}", workload.name),
                remedy: format!(
                    "take {annotation} out of its pod template in Git, or restart it by Git: `workloads.restart.gitops`"
                ),
            })
        }));
        misfits
    }

    fn workload(&self, name: &WorkloadName) -> Option<&Workload> {
        self.workloads.iter().find(|workload| workload.name == *name)
    }

    /// Those whose template rekeyd changes although a GitOps tool keeps them; and whether what it writes is lost at
    /// each sync, as the object says itself.
    pub(crate) fn kept(&self) -> impl Iterator<Item = (&WorkloadName, &Tool, bool)> {
        let written = self.workloads.iter().filter(|_| self.declared.is_none());
        written.filter_map(|workload| Some((&workload.name, workload.keeper.as_ref()?, workload.is_replaced)))
    }

    /// What a preflight says of them.
    pub(crate) fn findings(&self, secret: &str, spec: &WorkloadsSpec) -> Vec<Finding> {
        let subject = format!("readers of {secret}");
        let misfits = self.misfits(spec);
        if !misfits.is_empty() {
            let fail = |misfit: Misfit| Finding::fail(&subject, misfit.why, misfit.remedy);
            return misfits.into_iter().map(fail).collect();
        }
        if self.workloads.is_empty() {
            let remedy = "name them under `workloads.also` if there are any";
            return vec![Finding::warn(subject, "no workload refers to it", remedy)];
        }
        let names: Vec<String> = self.workloads.iter().map(|workload| workload.name.to_string()).collect();
        let kept = self.workloads.iter().filter(|_| self.names.freezes).filter_map(|workload| {
            let tool = workload.keeper.as_ref()?;
            let why = format!(
                "{tool} writes back which Secret {} names: one more restart each time",
                workload.name
            );
            Some(Finding::warn(
                &subject,
                why,
                "leave `immutable` out, or have the tool ignore that difference",
            ))
        });
        let beyond = self.workloads.iter().flat_map(|workload| {
            let beyond =
                self.counting(workload).into_iter().filter(|budget| workload.takes > budget.spares());
            beyond.map(move |budget| (workload, budget))
        });
        let beyond = beyond.map(|(workload, budget)| {
            let why = format!(
                "an update of {} takes {} away at once, and PodDisruptionBudget {} spares {}: it is not waited for",
                workload.name,
                workload.takes,
                budget.name,
                budget.spares()
            );
            Finding::warn(&subject, why, "have the update make new pods first, or the budget spare more")
        });
        let tight = self.workloads.iter().filter_map(|workload| {
            let why = format!("{}: {}", workload.name, self.without_room(workload, &[], &[])?);
            Some(Finding::warn(
                &subject,
                why,
                "raise the quota by a pod, or have the update take one away first",
            ))
        });
        kept.chain(beyond).chain(tight).chain([Finding::pass(&subject, names.join(", "))]).collect()
    }
}

impl Workload {
    /// Whether it is to take a new version by itself and never sees one.
    fn never_sees(&self) -> bool {
        self.reloads_itself && self.refers.way >= Reference::Environment && self.refers.stays
    }
}

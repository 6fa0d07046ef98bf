//! The partitions of AWS: worlds of their own, each with its names, its host names and its IAM.
//!
//! From `partitions.json` of AWS's own clients and IAM's rules for endpoints (botocore 1.43).

/// A partition.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Partition {
    /// As ARNs name it.
    pub(crate) id: &'static str,
    /// What the names of its regions begin with.
    prefix: &'static str,
    /// What the names of its hosts end with.
    pub(crate) suffix: &'static str,
    /// Where its IAM is, and the region that requests to it are signed for.
    pub(crate) iam: &'static str,
    pub(crate) iam_region: &'static str,
}

/// Every region that begins with two letters and is none of the others': new ones are opened there.
const USUAL: Partition = Partition {
    id: "aws",
    prefix: "",
    suffix: "amazonaws.com",
    iam: "iam.amazonaws.com",
    iam_region: "us-east-1",
};

const OTHERS: [Partition; 7] = [
    Partition {
        id: "aws-cn",
        prefix: "cn-",
        suffix: "amazonaws.com.cn",
        iam: "iam.cn-north-1.amazonaws.com.cn",
        iam_region: "cn-north-1",
    },
    Partition {
        id: "aws-us-gov",
        prefix: "us-gov-",
        suffix: "amazonaws.com",
        iam: "iam.us-gov.amazonaws.com",
        iam_region: "us-gov-west-1",
    },
    Partition {
        id: "aws-eusc",
        prefix: "eusc-",
        suffix: "amazonaws.eu",
        iam: "iam.eusc-de-east-1.amazonaws.eu",
        iam_region: "eusc-de-east-1",
    },
    Partition {
        id: "aws-iso",
        prefix: "us-iso-",
        suffix: "c2s.ic.gov",
        iam: "iam.us-iso-east-1.c2s.ic.gov",
        iam_region: "us-iso-east-1",
    },
    Partition {
        id: "aws-iso-b",
        prefix: "us-isob-",
        suffix: "sc2s.sgov.gov",
        iam: "iam.us-isob-east-1.sc2s.sgov.gov",
        iam_region: "us-isob-east-1",
    },
    Partition {
        id: "aws-iso-e",
        prefix: "eu-isoe-",
        suffix: "cloud.adc-e.uk",
        iam: "iam.eu-isoe-west-1.cloud.adc-e.uk",
        iam_region: "eu-isoe-west-1",
    },
    Partition {
        id: "aws-iso-f",
        prefix: "us-isof-",
        suffix: "csp.hci.ic.gov",
        iam: "iam.us-isof-south-1.csp.hci.ic.gov",
        iam_region: "us-isof-south-1",
    },
];

impl Partition {
    /// The partition of a region; `None` of one that may be of a partition that is not known here.
    pub(crate) fn of(region: &str) -> Option<&'static Self> {
        if let Some(known) = OTHERS.iter().find(|partition| region.starts_with(partition.prefix)) {
            return Some(known);
        }
        let mut parts = region.split('-');
        let area = parts.next().unwrap_or_default();
        let is_secluded = parts.next().is_some_and(|part| part.starts_with("iso"));
        (area.len() == 2 && !is_secluded).then_some(&USUAL)
    }

    /// The same, where the settings say themselves where everything is.
    pub(crate) fn or_usual(region: &str) -> &'static Self {
        Self::of(region).unwrap_or(&USUAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_of_one_partition_or_of_none_that_is_known() {
        for (region, id) in [
            ("eu-central-1", Some("aws")),
            ("mx-central-1", Some("aws")),
            ("nz-north-1", Some("aws")),
            ("cn-north-1", Some("aws-cn")),
            ("us-gov-west-1", Some("aws-us-gov")),
            ("eusc-de-east-1", Some("aws-eusc")),
            ("us-iso-east-1", Some("aws-iso")),
            ("us-isob-east-1", Some("aws-iso-b")),
            ("eu-isoe-west-1", Some("aws-iso-e")),
            ("us-isof-south-1", Some("aws-iso-f")),
            ("us-isog-east-1", None),
            ("apsc-in-east-1", None),
        ] {
            assert_eq!(Partition::of(region).map(|partition| partition.id), id, "{region}");
        }
    }
}

//! Reviews: kinds that are created to ask something and never stored.

use super::PLAIN;
use crate::resource::Resource;

pub(super) fn resources() -> Vec<Resource> {
    let review = |group, kind, plural, singular| Resource {
        group,
        kind,
        plural,
        singular,
        namespaced: false,
        verbs: &["create"],
        ..PLAIN
    };
    let authentication = "authentication.k8s.io";
    let authorization = "authorization.k8s.io";
    vec![
        review(authentication, "SelfSubjectReview", "selfsubjectreviews", "selfsubjectreview"),
        review(authentication, "TokenReview", "tokenreviews", "tokenreview"),
        Resource {
            namespaced: true,
            ..review(
                authorization,
                "LocalSubjectAccessReview",
                "localsubjectaccessreviews",
                "localsubjectaccessreview",
            )
        },
        review(
            authorization,
            "SelfSubjectAccessReview",
            "selfsubjectaccessreviews",
            "selfsubjectaccessreview",
        ),
        review(
            authorization,
            "SelfSubjectRulesReview",
            "selfsubjectrulesreviews",
            "selfsubjectrulesreview",
        ),
        review(authorization, "SubjectAccessReview", "subjectaccessreviews", "subjectaccessreview"),
    ]
}

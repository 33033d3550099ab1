package access

import (
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// who says to whom a rule's scope is given.
type who int

const (
	inTenant   who = iota // those who have the scope in the tenant that the request names
	everywhere            // those who have the scope in all tenants
	members               // members of the cluster
	anyone                // those who have said who they are
	everybody             // nobody is asked
)

// rule says who may call a method.
type rule struct {
	who   who
	scope Scope
	// tenant is the path in the request to the resource name that begins with
	// the tenant, as in `subscription.name`.
	tenant string
}

const (
	parent = "parent"
	name   = "name"
)

// table has the rule of every method.
var table = map[string]rule{ //nolint:gochecknoglobals // a table that nobody writes to
	fanfarev1.EventService_Publish_FullMethodName:       {inTenant, Publish, parent},
	fanfarev1.EventService_PublishStream_FullMethodName: {inTenant, Publish, parent},
	fanfarev1.EventService_GetEvent_FullMethodName:      {inTenant, Read, name},
	fanfarev1.EventService_ListEvents_FullMethodName:    {inTenant, Read, parent},
	fanfarev1.EventService_ExportEvents_FullMethodName:  {inTenant, Read, parent},

	fanfarev1.SubscriptionService_CreateSubscription_FullMethodName:       {inTenant, Write, parent},
	fanfarev1.SubscriptionService_GetSubscription_FullMethodName:          {inTenant, Read, name},
	fanfarev1.SubscriptionService_ListSubscriptions_FullMethodName:        {inTenant, Read, parent},
	fanfarev1.SubscriptionService_UpdateSubscription_FullMethodName:       {inTenant, Write, "subscription.name"},
	fanfarev1.SubscriptionService_DeleteSubscription_FullMethodName:       {inTenant, Write, name},
	fanfarev1.SubscriptionService_PauseSubscription_FullMethodName:        {inTenant, Write, name},
	fanfarev1.SubscriptionService_ResumeSubscription_FullMethodName:       {inTenant, Write, name},
	fanfarev1.SubscriptionService_GetSubscriptionSecret_FullMethodName:    {inTenant, Write, name},
	fanfarev1.SubscriptionService_RotateSubscriptionSecret_FullMethodName: {inTenant, Write, name},
	fanfarev1.SubscriptionService_SendTest_FullMethodName:                 {inTenant, Write, name},
	// Public keys are for receivers, who have no account here.
	fanfarev1.SubscriptionService_ListSigningKeys_FullMethodName: {everybody, "", ""},

	fanfarev1.DeliveryService_GetDelivery_FullMethodName:      {inTenant, Read, name},
	fanfarev1.DeliveryService_ListDeliveries_FullMethodName:   {inTenant, Read, parent},
	fanfarev1.DeliveryService_ListAttempts_FullMethodName:     {inTenant, Read, parent},
	fanfarev1.DeliveryService_WatchDeliveries_FullMethodName:  {inTenant, Read, parent},
	fanfarev1.DeliveryService_RetryDelivery_FullMethodName:    {inTenant, Write, name},
	fanfarev1.DeliveryService_CreateReplay_FullMethodName:     {inTenant, Write, parent},
	fanfarev1.DeliveryService_GetReplay_FullMethodName:        {inTenant, Read, name},
	fanfarev1.DeliveryService_ListReplays_FullMethodName:      {inTenant, Read, parent},
	fanfarev1.DeliveryService_CancelReplay_FullMethodName:     {inTenant, Write, name},
	fanfarev1.DeliveryService_GetStatistics_FullMethodName:    {inTenant, Read, name},
	fanfarev1.DeliveryService_ExportDeliveries_FullMethodName: {inTenant, Read, parent},

	fanfarev1.AlertService_GetAlert_FullMethodName:        {inTenant, Read, name},
	fanfarev1.AlertService_ListAlerts_FullMethodName:      {inTenant, Read, parent},
	fanfarev1.AlertService_WatchAlerts_FullMethodName:     {inTenant, Read, parent},
	fanfarev1.AlertService_GetAlertRule_FullMethodName:    {inTenant, Read, name},
	fanfarev1.AlertService_ListAlertRules_FullMethodName:  {inTenant, Read, parent},
	fanfarev1.AlertService_UpdateAlertRule_FullMethodName: {inTenant, Write, "alert_rule.name"},
	fanfarev1.AlertService_DeleteAlertRule_FullMethodName: {inTenant, Write, name},

	fanfarev1.TenantService_CreateTenant_FullMethodName: {everywhere, Admin, ""},
	fanfarev1.TenantService_GetTenant_FullMethodName:    {inTenant, Read, name},
	fanfarev1.TenantService_ListTenants_FullMethodName:  {everywhere, Read, ""},
	fanfarev1.TenantService_UpdateTenant_FullMethodName: {everywhere, Admin, ""},
	fanfarev1.TenantService_DeleteTenant_FullMethodName: {everywhere, Admin, ""},

	fanfarev1.ClusterService_DescribeCluster_FullMethodName: {everywhere, Read, ""},

	fanfarev1.ClusterService_DrainMember_FullMethodName: {everywhere, Admin, ""},

	linkv1.LinkService_Attach_FullMethodName:                    {members, "", ""},
	linkv1.PartitionService_DescribePartition_FullMethodName:    {members, "", ""},
	linkv1.PartitionService_ListPartitionTenants_FullMethodName: {members, "", ""},
	linkv1.PartitionService_RecordAlerts_FullMethodName:         {members, "", ""},

	// Load balancers ask for the health without saying who they are.
	"/grpc.health.v1.Health/Check":                                   {everybody, "", ""},
	"/grpc.health.v1.Health/List":                                    {everybody, "", ""},
	"/grpc.health.v1.Health/Watch":                                   {everybody, "", ""},
	"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      {anyone, "", ""},
	"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": {anyone, "", ""},
}

// ruleOf returns the rule of a method.
func ruleOf(method string) (rule, error) {
	r, ok := table[method]
	if !ok {
		return rule{}, denied("nobody may call %s: it has no rule", method)
	}
	return r, nil
}

// tenantOf returns the tenant that a request names, or "".
func (r rule) tenantOf(request any) string {
	message, ok := request.(proto.Message)
	if !ok {
		return ""
	}
	rest, ok := strings.CutPrefix(r.resource(message.ProtoReflect()), "tenants/")
	if !ok {
		return ""
	}
	tenant, _, _ := strings.Cut(rest, "/")
	return tenant
}

// resource returns the resource name in a request, or "".
func (r rule) resource(message protoreflect.Message) string {
	path := strings.Split(r.tenant, ".")
	for i, field := range path {
		descriptor := message.Descriptor().Fields().ByName(protoreflect.Name(field))
		switch {
		case descriptor == nil:
			return ""
		case i == len(path)-1 && descriptor.Kind() == protoreflect.StringKind && !descriptor.IsList():
			return message.Get(descriptor).String()
		case descriptor.Kind() != protoreflect.MessageKind || descriptor.IsList() || descriptor.IsMap():
			return ""
		}
		message = message.Get(descriptor).Message()
	}
	return ""
}
